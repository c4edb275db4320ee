// SPDX-License-Identifier: MIT
// Balancing on the GPU: a sign per expert, and a loss whose terms are one number per token.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/host/add_sum.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/routing/leaders.cuh>
#include <dsv3/op/routing/balance.hpp>

#include <algorithm>
#include <cstdint>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

// load < mean exactly where load · experts < total: no division, so equality is exact.
template <class Master>
__global__ void move_bias_kernel(const std::int64_t* load, index_t experts, double rate, const double* scale,
                                 Master* bias) {
  __shared__ std::int64_t room[32];
  if (scale != nullptr && !isfinite(*scale)) return;
  std::int64_t total = 0;
  for (index_t e = threadIdx.x; e < experts; e += blockDim.x) total += load[e];
  total = reduce_block(total, room, plus{});
  for (index_t e = threadIdx.x; e < experts; e += blockDim.x) {
    const std::int64_t missing = total - load[e] * experts;
    bias[e] += Master(rate * ((missing > 0) - (missing < 0)));
  }
}

/// The sequence of a token, by bisection.
__device__ inline index_t sequence_of(const packed_sequences& sequence, index_t t) {
  index_t low = 0, high = sequence.sequences();  // offsets[low] <= t < offsets[high]
  while (high - low > 1) {
    const index_t middle = (low + high) / 2;
    (sequence.offsets(middle) <= t ? low : high) = middle;
  }
  return low;
}

/// A warp counts for one token: which experts the router chose, or which have the largest scores.
template <class Acc>
__global__ void __launch_bounds__(256)
    count_indicated_kernel(view<const Acc, 2> scores, view<const std::int32_t, 2> ids, bool router_chose,
                           packed_sequences sequence, view<std::int32_t, 2> count) {
  using rank = decltype(rank_of(Acc()));
  extern __shared__ __align__(16) std::byte rank_memory[];
  const index_t t = static_cast<index_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (t >= scores.extent(0)) return;
  const int lane = threadIdx.x % 32, experts = static_cast<int>(scores.extent(1));
  const index_t top_k = ids.extent(1);
  std::int32_t* to = count[sequence_of(sequence, t)].data();
  if (router_chose) {
    for (index_t k = lane; k < top_k; k += 32) atomicAdd(to + ids(t, k), 1);
    return;
  }
  rank* ranks = reinterpret_cast<rank*>(rank_memory) + threadIdx.x / 32 * experts;
  for (int e = lane; e < experts; e += 32) ranks[e] = rank_of(scores(t, e));
  __syncwarp();
  leader<rank> last;
  for (index_t k = 0; k < top_k; ++k) {
    last = next_leader(ranks, 0, experts, last);
    if (lane == 0) atomicAdd(to + last.index, 1);
  }
}

/// f from the counts.
template <class Acc>
__global__ void fraction_kernel(view<const std::int32_t, 2> count, packed_sequences sequence, index_t top_k,
                                view<Acc, 2> fraction) {
  const index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= fraction.size()) return;
  const index_t experts = fraction.extent(1), s = i / experts, e = i % experts;
  const index_t tokens = sequence.offsets(s + 1) - sequence.offsets(s);
  const double balanced = double(top_k) * double(tokens) / double(experts);
  fraction(s, e) = tokens == 0 ? Acc(0) : Acc(double(count(s, e)) / balanced);
}

struct score_moments {
  double sum, weighted;  // Σ s, Σ f · s
};
/// Of one token by a warp; every lane gets both.
template <class Acc>
__device__ __forceinline__ score_moments token_moments(const Acc* s, const Acc* f, index_t experts) {
  double sum = 0, weighted = 0;
  for (index_t e = threadIdx.x % 32; e < experts; e += 32) {
    sum += double(s[e]);
    weighted += double(s[e]) * double(f[e]);
  }
  return {sum_lanes(sum), sum_lanes(weighted)};
}

/// mean[t] = m[t] / tokens of its sequence, by a warp per token.
template <class Acc>
__global__ void __launch_bounds__(256)
    token_means_kernel(view<const Acc, 2> scores, view<const Acc, 2> fraction, packed_sequences sequence,
                       double* mean) {
  const index_t t = static_cast<index_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (t >= scores.extent(0)) return;
  const index_t s = sequence_of(sequence, t);
  const score_moments m = token_moments(scores[t].data(), fraction[s].data(), scores.extent(1));
  if (threadIdx.x % 32 == 0)
    mean[t] = m.weighted / m.sum / double(sequence.offsets(s + 1) - sequence.offsets(s));
}

template <class Acc>
__global__ void __launch_bounds__(256)
    balance_backward_kernel(view<const Acc, 2> scores, view<const Acc, 2> fraction, packed_sequences sequence,
                            double coefficient, view<Acc, 2> dscores) {
  const index_t t = static_cast<index_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (t >= scores.extent(0)) return;
  const index_t experts = scores.extent(1), s = sequence_of(sequence, t);
  const Acc* f = fraction[s].data();
  const score_moments m = token_moments(scores[t].data(), f, experts);
  const double tokens = double(sequence.offsets(s + 1) - sequence.offsets(s));
  const double share = coefficient / (double(sequence.sequences()) * tokens);
  const Acc slope = Acc(share / m.sum), mean = Acc(m.weighted / m.sum);
  for (index_t e = threadIdx.x % 32; e < experts; e += 32) dscores(t, e) = slope * (f[e] - mean);
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P>
struct implementation<op::routing_bias<P>, backend::cuda> {
  template <class Ctx>
  static void run(Ctx& ctx, const typename op::routing_bias<P>::update_args& args) {
    cuda::launch(op::routing_bias<P>::update_args::name, ctx.stream, {},
                 cuda::detail::move_bias_kernel<master<P>>, args.load.data(), args.load.extent(0), args.rate,
                 args.scale.data(), args.bias.data());
  }
};

/// Exchanging the sums of Σ_e f[e] P[e] leaves one number per token, the mean of f under its normalised
/// scores, as on the CPU; what it counts for the loss is a share by its sequence's length.
template <class P>
struct implementation<op::sequence_balance<P>, backend::cuda> {
  using op_type = op::sequence_balance<P>;
  using acc = accumulator<P>;
  using forward_args = typename op_type::forward_args;
  using backward_args = typename op_type::backward_args;

  struct forward_scratch {
    view<double, 1> mean;         // [tokens]               m / tokens of the sequence
    view<std::int32_t, 2> count;  // [sequences, experts]   tokens that indicate the expert
  };
  template <class Ctx>
  static forward_scratch scratch(const Ctx&, scratch_arena& arena, const forward_args& args) {
    return {arena.tensor<double>(args.scores.extent(0)),
            arena.tensor<std::int32_t>(args.sequence.sequences(), args.scores.extent(1))};
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const forward_scratch work = scratch(ctx, ctx.scratch, args);
    const char* name = forward_args::name;
    const index_t tokens = args.scores.extent(0), sequences = args.sequence.sequences();
    if (sequences == 0) return;
    cuda::require(
        cudaMemsetAsync(work.count.data(), 0,
                        sizeof(std::int32_t) * static_cast<std::size_t>(work.count.size()), ctx.stream),
        name);
    const bool router_chose = args.indicator == balance_indicator::selection;
    const index_t room = router_chose ? 0 : static_cast<index_t>(sizeof(acc)) * args.scores.extent(1);
    const auto warps = static_cast<unsigned>(
        std::clamp<index_t>(48 * 1024 / std::max<index_t>(room, 1), 1, warps_per_block));
    cuda::launch(name, ctx.stream,
                 {.grid = static_cast<unsigned>(ceil_div(tokens, warps)),
                  .block = 32 * warps,
                  .shared_bytes = static_cast<std::size_t>(room) * warps},
                 cuda::detail::count_indicated_kernel<acc>, args.scores, args.ids, router_chose,
                 args.sequence, work.count);
    cuda::launch(name, ctx.stream, {.grid = static_cast<unsigned>(ceil_div(work.count.size(), 256))},
                 cuda::detail::fraction_kernel<acc>, work.count, args.sequence, args.ids.extent(1),
                 args.fraction);
    cuda::launch(name, ctx.stream, per_token(tokens), cuda::detail::token_means_kernel<acc>, args.scores,
                 args.fraction, args.sequence, work.mean.data());
    cuda::add_sum(name, ctx.stream, work.mean, args.coefficient / double(sequences), args.loss.data());
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_args& args) {
    cuda::launch(backward_args::name, ctx.stream, per_token(args.scores.extent(0)),
                 cuda::detail::balance_backward_kernel<acc>, args.scores, args.fraction, args.sequence,
                 args.coefficient, args.dscores);
  }

 private:
  static constexpr index_t warps_per_block = 8;

  static cuda::launch_shape per_token(index_t tokens) {
    return {.grid = static_cast<unsigned>(ceil_div(tokens, warps_per_block)),
            .block = static_cast<unsigned>(32 * warps_per_block)};
  }
};

}  // namespace dsv3::inline DSV3_ABI
