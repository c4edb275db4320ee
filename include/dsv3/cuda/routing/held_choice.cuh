// SPDX-License-Identifier: MIT
// The router's choice where a warp holds all experts of its token in registers: up to 256 of them.
#pragma once

#include <dsv3/cuda/routing/leaders.cuh>
#include <dsv3/op/routing/router.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// The logits as the product leaves them: in parts, to be added in order.
template <class Acc>
struct logit_parts {
  const Acc* data;
  index_t stride, part_stride, parts;
};

// ---- selection --------------------------------------------------------------------------------------------

/// A lane holds the ranks of 8 experts, finds the two best of a group, and keeps one of the chosen.
inline bool takes_held_choice(const router_config& c) {
  return c.experts <= 256 && c.groups <= 32 && c.top_k <= 32 && c.group_top() <= 2;
}

// ---- kernels ----------------------------------------------------------------------------------------------

/// The groups that stay, a bit each. `ranks` are those of all experts, in shared memory.
__device__ __forceinline__ unsigned kept_groups_of(const router_config& c, const std::uint32_t* ranks,
                                                   int lane) {
  const int groups = static_cast<int>(c.groups), members = static_cast<int>(c.group_experts());
  std::uint32_t mine = 0;  // the rank of the lane's group
  if (lane < groups) {
    std::uint32_t best = 0, second = 0;
    int at = lane % members;  // each lane begins elsewhere, so that they meet in few banks
    for (int i = 0; i < members; ++i) {
      const std::uint32_t rank = ranks[lane * members + at];
      second = max(second, min(best, rank)), best = max(best, rank);
      if (++at == members) at = 0;
    }
    mine = rank_of(c.group_top() == 2 ? ranked(best) + ranked(second) : ranked(best));
  }
  unsigned kept = 0;
  for (index_t i = 0; i < c.kept_groups; ++i) {
    const std::uint32_t top = highest_lane(mine);
    const int group = __ffs(static_cast<int>(__ballot_sync(all_lanes, mine == top))) - 1;
    kept |= 1u << group;
    if (lane == group) mine = 0;
  }
  return kept;
}

/// load[e] += how many ids are e; a block counts those of a stretch of tokens before it adds. Additions to
/// few places stand in line: as many as there are choices would take longer than the choosing.
template <class Id>
__global__ void __launch_bounds__(256)
    count_load_kernel(view<const Id, 2> ids, index_t stretch, int experts, unsigned long long* load) {
  __shared__ unsigned counts[256];
  counts[threadIdx.x] = 0;
  __syncthreads();
  const index_t top_k = ids.extent(1), first = blockIdx.x * stretch;
  const index_t count = min(stretch, ids.extent(0) - first) * top_k;
  for (index_t i = threadIdx.x; i < count; i += blockDim.x)
    atomicAdd(counts + ids(first + i / top_k, i % top_k), 1u);
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += blockDim.x)
    if (counts[e] > 0) atomicAdd(load + e, static_cast<unsigned long long>(counts[e]));
}

/// A warp per token; lane l holds experts l, l + 32, ... The logits may lie where the scores go.
template <int Held, class Master>
__global__ void __launch_bounds__(256)
    choose_held_experts_kernel(router_config c, logit_parts<float> logits, const Master* bias,
                               view<float, 2> scores, view<std::int32_t, 2> ids, view<float, 2> gates,
                               unsigned long long* load) {
  __shared__ std::uint32_t rank_room[8][32 * Held];
  const index_t t = static_cast<index_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (t >= scores.extent(0)) return;
  const int lane = threadIdx.x % 32, experts = static_cast<int>(c.experts);

  float s[Held] = {};
  const float* z = logits.data + t * logits.stride + lane;
#pragma unroll 8
  for (index_t part = 0; part < logits.parts; ++part, z += logits.part_stride)
#pragma unroll
    for (int j = 0; j < Held; ++j)
      if (lane + 32 * j < experts) s[j] += z[32 * j];
  std::uint32_t ranks[Held] = {};  // 0: there is none, or it is out of the choice
#pragma unroll
  for (int j = 0; j < Held; ++j) {
    const int e = lane + 32 * j;
    if (e >= experts) continue;
    s[j] = 1.0f / (1.0f + exp(-s[j]));
    scores(t, e) = s[j];
    ranks[j] = rank_of(s[j] + float(bias[e]));
  }
  if (c.kept_groups < c.groups) {
    std::uint32_t* all = rank_room[threadIdx.x / 32];
#pragma unroll
    for (int j = 0; j < Held; ++j) all[lane + 32 * j] = ranks[j];
    __syncwarp();
    const unsigned kept = kept_groups_of(c, all, lane);
    const float groups_per_expert = 1.0f / static_cast<float>(c.group_experts());
#pragma unroll
    for (int j = 0; j < Held; ++j) {  // the half keeps the quotient clear of whole numbers
      const int group = static_cast<int>((static_cast<float>(lane + 32 * j) + 0.5f) * groups_per_expert);
      if (lane + 32 * j < experts && (kept >> group & 1) == 0) ranks[j] = 0;
    }
  }

  int chosen = 0;
  float score = 0, sum = 1e-20f;
  for (int k = 0; k < static_cast<int>(c.top_k); ++k) {
    std::uint32_t best = 0;
    unsigned at = ~0u;
    float its_score = 0;
#pragma unroll
    for (int j = 0; j < Held; ++j)
      if (ranks[j] > best) best = ranks[j], at = static_cast<unsigned>(lane + 32 * j), its_score = s[j];
    const std::uint32_t top = highest_lane(best);
    const unsigned first = __reduce_min_sync(all_lanes, best == top ? at : ~0u);
    its_score = __shfl_sync(all_lanes, its_score, static_cast<int>(first % 32));
    sum += its_score;
    if (lane == k) chosen = static_cast<int>(first), score = its_score;
#pragma unroll
    for (int j = 0; j < Held; ++j)
      if (first == static_cast<unsigned>(lane + 32 * j)) ranks[j] = 0;
  }
  if (lane >= c.top_k) return;
  ids(t, lane) = chosen;
  gates(t, lane) = float(c.scale) / (c.normalise == gate_norm::none ? 1.0f : sum) * score;
  if (load != nullptr) atomicAdd(load + chosen, 1ull);
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
