// SPDX-License-Identifier: MIT
// Latent attention's forward pass on Hopper. One warpgroup has the copy engine bring keys and values, two
// compute 64 queries each: while one takes exponentials, the other's products run (they hand each other the
// turn to start products), and while a warpgroup takes those of one tile of scores, its sums over the values
// of the tile before run too.
#pragma once

#include <dsv3/cuda/attention/mla_attention/tiles_sm90.cuh>

#include <cmath>
#include <type_traits>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// 128 keys at a time, two tiles of keys and two of values under way. A panel is 128 rows of 64 columns.
struct sm90_forward : sm90_attention {
  static constexpr int keys = 128, stages = 2;
  static constexpr std::uint32_t panel_bytes = 128 * 128;
  static constexpr std::uint32_t q_bytes = 3 * panel_bytes, k_bytes = 3 * panel_bytes,
                                 v_bytes = 2 * panel_bytes;
  static constexpr std::uint32_t shared_bytes = q_bytes + stages * (k_bytes + v_bytes) + 1024;
};

// ---- kernels ----------------------------------------------------------------------------------------------

struct sm90_forward_barriers {
  mbarrier q_full, k_full[2], k_empty[2], v_full[2], v_empty[2];
};

#if DSV3_SM90A

/// Of one row of scores, as far as a warpgroup has come: its thread's share of the sum of exponentials.
struct sm90_softmax {
  float highest[2] = {-INFINITY, -INFINITY}, sum[2] = {};

  /// Turns 64 by 128 scores into exponentials; how much of earlier sums stays goes to `stays`. A row sees the
  /// columns below visible, and below visible + 8 the row eight further down.
  template <bool Edge>
  __device__ __forceinline__ void absorb(float (&scores)[64], float scale, int visible, float (&stays)[2]) {
    if constexpr (Edge) {
#pragma unroll
      for (int i = 0; i < 64; ++i)
        if (sum_column(static_cast<int>(threadIdx.x), i) >= visible + i / 2 % 2 * 8) scores[i] = -INFINITY;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = highest[half];
#pragma unroll
      for (int i = 0; i < 32; ++i) top = fmaxf(top, scores[i / 2 * 4 + half * 2 + i % 2]);
      top = reduce_lanes<4>(top, [](float a, float b) { return fmaxf(a, b); });
      // Where every score so far is -infinity there is nothing to subtract: exp2 gives zero anyway.
      const float shift = top == -INFINITY ? 0.f : top * scale;
      stays[half] = exp2_approximately(highest[half] * scale - shift);
      highest[half] = top;
      float added = 0;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        float& score = scores[i / 2 * 4 + half * 2 + i % 2];
        added += score = exp2_approximately(score * scale - shift);
      }
      sum[half] = sum[half] * stays[half] + added;
    }
  }
};

#endif

/// o and lse of 128 queries of a head.
template <class Element>
__global__ void __launch_bounds__(sm90_forward::threads, 1)
    sm90_forward_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap kv_map,
                        const __grid_constant__ CUtensorMap rope_map,
                        const __grid_constant__ attention_inputs<Element, float> in, view<Element, 3> o,
                        view<float, 2> lse, sm90_order order) {
#if DSV3_SM90A
  using shape = sm90_forward;
  extern __shared__ unsigned char dynamic[];
  __shared__ sm90_forward_barriers barriers;
  unsigned char *const q_tile = swizzle_aligned(dynamic), *const k_tiles = q_tile + shape::q_bytes,
                       *const v_tiles = k_tiles + shape::stages * shape::k_bytes;
  const sm90_order::place place = order.at(blockIdx.x);
  const int head = place.head;
  const sequence_tile at = find_tile(in.queries, shape::rows, place.tile);
  if (at.sequence < 0) return;
  const index_range tokens = tokens_of(in.queries, at.sequence), key_tokens = tokens_of(in.keys, at.sequence);
  // Within the sequence; late queries see most keys and go first.
  const int first = static_cast<int>(at.tiles - 1 - at.tile) * shape::rows;
  const int end = min(first + shape::rows, static_cast<int>(tokens.count()));
  const int before = static_cast<int>(key_tokens.count() - tokens.count()), seen = before + end;
  const int tiles = (seen + shape::keys - 1) / shape::keys;
  if (seen <= 0) return;  // reported: fewer keys than queries
  const int group = warpgroup() - 1, lane = static_cast<int>(threadIdx.x % 32);
  if (threadIdx.x == 0) {
    barriers.q_full.init(1);
    for (int i = 0; i < shape::stages; ++i) {
      barriers.k_full[i].init(1), barriers.k_empty[i].init(8);  // an arrival of each warp that computes
      barriers.v_full[i].init(1), barriers.v_empty[i].init(8);
    }
    publish_barriers();
  }
  __syncthreads();

  if (group < 0) {
    give_registers<shape::copy_registers>();
    if (threadIdx.x == 0) {
      const auto load = [&](unsigned char* to, const CUtensorMap& map, mbarrier& full, int column, int row) {
        load_box(to, map, full, column, head, row);
      };
      const auto load_k = [&](int i) {
        const int stage = i % 2, row = static_cast<int>(key_tokens.begin) + (tiles - 1 - i) * shape::keys;
        unsigned char* const to = k_tiles + stage * shape::k_bytes;
        barriers.k_empty[stage].wait((i / 2 & 1) ^ 1);
        barriers.k_full[stage].arrive_and_expect(shape::k_bytes);
        load(to, kv_map, barriers.k_full[stage], 0, row);
        load(to + shape::panel_bytes, kv_map, barriers.k_full[stage], 64, row);
        load_box(to + 2 * shape::panel_bytes, rope_map, barriers.k_full[stage], 0, row);
      };
      const auto load_v = [&](int i) {
        const int stage = i % 2, row = static_cast<int>(key_tokens.begin) + (tiles - 1 - i) * shape::keys;
        unsigned char* const to = v_tiles + stage * shape::v_bytes;
        barriers.v_empty[stage].wait((i / 2 & 1) ^ 1);
        barriers.v_full[stage].arrive_and_expect(shape::v_bytes);
        load(to, kv_map, barriers.v_full[stage], shape::nope, row);
        load(to + shape::panel_bytes, kv_map, barriers.v_full[stage], shape::nope + 64, row);
      };
      barriers.q_full.arrive_and_expect(shape::q_bytes);
      for (int panel = 0; panel < 3; ++panel)
        load(q_tile + panel * shape::panel_bytes, q_map, barriers.q_full, panel * 64,
             static_cast<int>(tokens.begin) + first);
      // The order in which they are waited for: keys are one tile ahead of values.
      load_k(0);
      for (int i = 1; i < tiles; ++i) load_k(i), load_v(i - 1);
      load_v(tiles - 1);
    }
  } else {
    take_registers<shape::compute_registers>();
    const std::uint32_t q_rows = shared_address(q_tile) + group * 64 * 128, k_rows = shared_address(k_tiles),
                        v_rows = shared_address(v_tiles);
    const unsigned own_turn = 1 + group, other_turn = 2 - group, own_barrier = 3 + group;
    const float scale = in.scale * log2_of_e;  // exponentials to base 2
    // Of key 0 on, this thread's upper row sees keys below `visible`; all rows of the warpgroup those below
    // `seen_by_all`.
    const int row = group * 64 + sum_row(static_cast<int>(threadIdx.x % 128), 0);
    const int visible = before + first + row + 1, seen_by_all = before + first + group * 64 + 1;
    float scores[64], out[64] = {}, stays[2];
    std::uint32_t weights[8][4];
    sm90_softmax softmax;
    const auto multiply = [&](int stage) {
      fence_sums();
      multiply_panels<128, 3>(scores, q_rows, shape::panel_bytes, k_rows + stage * shape::k_bytes,
                              shape::panel_bytes);
      commit_products();
    };
    const auto add_values = [&](int stage) {
      fence_sums();
      add_weighted_panels<128, 128>(out, weights, v_rows + stage * shape::v_bytes, shape::panel_bytes);
      commit_products();
    };

    barriers.q_full.wait(0);
    barriers.k_full[0].wait(0);
    multiply(0);
    if (group == 1 && tiles > 1) named_arrive(other_turn, 256);  // the first turn is the other's
    wait_products<0>();
    pin(scores);
    if (lane == 0) barriers.k_empty[0].arrive();
    softmax.template absorb<true>(scores, scale, visible - (tiles - 1) * shape::keys, stays);
    round_sums<128>(weights, scores);
    if (const int rest = seen - (tiles - 1) * shape::keys; rest < shape::keys) {
      // Rows of nobody, or of the next sequence: a weight of zero must not meet a NaN.
      barriers.v_full[0].wait(0);
      clear_rows<2>(v_rows, shape::panel_bytes, rest, shape::keys, own_barrier);
    }
    // Masked and other tiles in two loops: a branch between the products of a tile would wait for them.
    const auto step = [&](int i, auto edge) {
      const int stage = i % 2, stage_before = stage ^ 1;
      barriers.k_full[stage].wait(i / 2 & 1);
      named_sync(own_turn, 256);
      multiply(stage);
      barriers.v_full[stage_before].wait((i - 1) / 2 & 1);
      add_values(stage_before);
      if (group == 0 || i + 1 < tiles) named_arrive(other_turn, 256);
      wait_products<1>();
      pin(scores);
      if (lane == 0) barriers.k_empty[stage].arrive();
      softmax.template absorb<edge.value>(scores, scale, visible - (tiles - 1 - i) * shape::keys, stays);
      pin(scores);
      wait_products<0>();
      pin(out);
      pin(scores);
      if (lane == 0) barriers.v_empty[stage_before].arrive();
      round_sums<128>(weights, scores);
#pragma unroll
      for (int j = 0; j < 64; ++j) out[j] *= stays[j / 2 % 2];
    };
    int i = 1;
    for (; i < tiles - seen_by_all / shape::keys; ++i) step(i, std::true_type{});
    for (; i < tiles; ++i) step(i, std::false_type{});
    barriers.v_full[(tiles - 1) % 2].wait((tiles - 1) / 2 & 1);
    add_values((tiles - 1) % 2);
    float share[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = sum_lanes<4>(softmax.sum[half]);
      share[half] = 1 / sum;
      const int r = first + row + half * 8;
      if (lane % 4 == 0 && r < end && !lse.empty())
        lse(head, tokens.begin + r) = softmax.highest[half] * in.scale + logf(sum);
    }
    wait_products<0>();
    pin(out);
    // The queries of the warpgroup have been read by all its warps: o takes their place.
    named_sync(own_barrier, 128);
    const int warp_rows = first + group * 64 + static_cast<int>(threadIdx.x / 32 % 4) * 16;
    Element* const to = &o(tokens.begin + warp_rows, head, 0);
    const index_t stride = o.stride(0);
    store_rows<128>(out, share[0], share[1], q_rows + static_cast<std::uint32_t>(threadIdx.x / 32 % 4) * 2048,
                    shape::panel_bytes, end - warp_rows, [&](int r) { return to + r * stride; });
  }
#else
  __trap();
#endif
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
