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
  mbarrier q_full, q_empty, k_full[2], k_empty[2], v_full[2], v_empty[2], place_full[2], place_empty[2];

#if DSV3_SM90A
  __device__ void init() {
    constexpr unsigned warps = 8;  // that compute: each arrives where it is done with something
    q_full.init(1), q_empty.init(warps);
    for (int i = 0; i < 2; ++i) {
      k_full[i].init(1), k_empty[i].init(warps), v_full[i].init(1), v_empty[i].init(warps);
      place_full[i].init(1), place_empty[i].init(warps);
    }
    publish_barriers();
  }
#endif
};

/// 128 queries of a head, as the warpgroup that copies tells the others.
struct sm90_forward_place {
  int head, token, first, end;  // rows [first, end) from the sequence's first query on
  int before, seen;  // how many keys all queries see, and any of these; 0: there are no more places

  __device__ int key_tiles() const { return (seen + sm90_forward::keys - 1) / sm90_forward::keys; }
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

/// o and lse of 128 queries of a head after the other.
template <class Element>
__global__ void __launch_bounds__(sm90_forward::threads, 1)
    sm90_forward_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap kv_map,
                        const __grid_constant__ CUtensorMap rope_map, float score_scale, view<Element, 3> o,
                        view<float, 2> lse, sm90_plan plan, sm90_order order) {
#if DSV3_SM90A
  using shape = sm90_forward;
  extern __shared__ unsigned char dynamic[];
  __shared__ sm90_forward_barriers barriers;
  __shared__ sm90_forward_place places[2];
  unsigned char *const q_tile = swizzle_aligned(dynamic), *const k_tiles = q_tile + shape::q_bytes,
                       *const v_tiles = k_tiles + shape::stages * shape::k_bytes;
  const int group = warpgroup() - 1, lane = static_cast<int>(threadIdx.x % 32);
  if (threadIdx.x == 0) barriers.init();
  __syncthreads();

  if (group < 0) {
    give_registers<shape::copy_registers>();
    if (threadIdx.x != 0) return;
    unsigned keys_before = 0, places_before = 0;
    const auto announce = [&](const sm90_forward_place& place) {
      const unsigned slot = places_before % 2;
      barriers.place_empty[slot].wait((places_before / 2 & 1) ^ 1);
      places[slot] = place;
      barriers.place_full[slot].arrive();
    };
    for (unsigned index = blockIdx.x; index < order.count();
         index = gridDim.x + atomicAdd(&plan.taken(0), 1u)) {
      const auto [number, head] = order.at(index);
      const sm90_tile tile = plan.tiles(number);
      if (tile.sequence < 0) continue;
      const int first = tile.mirrored();  // late queries see most keys and go first
      const int end = min(first + shape::rows, tile.length), seen = tile.before + end;
      if (seen <= 0) continue;  // reported: fewer keys than queries
      const sm90_forward_place place = {head, tile.token, first, end, tile.before, seen};
      announce(place);
      const int tiles = place.key_tiles();
      const auto load_k = [&](int i) {
        const unsigned it = keys_before + i, stage = it % 2;
        const int row = tile.key_token + (tiles - 1 - i) * shape::keys;
        unsigned char* const to = k_tiles + stage * shape::k_bytes;
        mbarrier& full = barriers.k_full[stage];
        barriers.k_empty[stage].wait((it / 2 & 1) ^ 1);
        full.arrive_and_expect(shape::k_bytes);
        load_box(to, kv_map, full, 0, place.head, row);
        load_box(to + shape::panel_bytes, kv_map, full, 64, place.head, row);
        load_box(to + 2 * shape::panel_bytes, rope_map, full, 0, row);
      };
      const auto load_v = [&](int i) {
        const unsigned it = keys_before + i, stage = it % 2;
        const int row = tile.key_token + (tiles - 1 - i) * shape::keys;
        unsigned char* const to = v_tiles + stage * shape::v_bytes;
        mbarrier& full = barriers.v_full[stage];
        barriers.v_empty[stage].wait((it / 2 & 1) ^ 1);
        full.arrive_and_expect(shape::v_bytes);
        load_box(to, kv_map, full, shape::nope, place.head, row);
        load_box(to + shape::panel_bytes, kv_map, full, shape::nope + 64, place.head, row);
      };
      barriers.q_empty.wait((places_before & 1) ^ 1);
      barriers.q_full.arrive_and_expect(shape::q_bytes);
      for (int panel = 0; panel < 3; ++panel)
        load_box(q_tile + panel * shape::panel_bytes, q_map, barriers.q_full, panel * 64, place.head,
                 tile.token + first);
      // The order in which they are waited for: keys are one tile ahead of values.
      load_k(0);
      for (int i = 1; i < tiles; ++i) load_k(i), load_v(i - 1);
      load_v(tiles - 1);
      keys_before += tiles, ++places_before;
    }
    announce({});
  } else {
    take_registers<shape::compute_registers>();
    const std::uint32_t q_rows = shared_address(q_tile) + group * 64 * 128, k_rows = shared_address(k_tiles),
                        v_rows = shared_address(v_tiles);
    const unsigned own_turn = 1 + group, other_turn = 2 - group, own_barrier = 3 + group;
    const float scale = score_scale * log2_of_e;                                   // exponentials to base 2
    const int row = group * 64 + sum_row(static_cast<int>(threadIdx.x % 128), 0);  // this thread's upper one
    float scores[64], out[64], stays[2];
    std::uint32_t weights[8][4];
    const auto multiply = [&](unsigned stage) {
      fence_sums();
      multiply_panels<128, 3>(scores, q_rows, shape::panel_bytes, k_rows + stage * shape::k_bytes,
                              shape::panel_bytes);
      commit_products();
    };
    const auto add_values = [&](unsigned stage) {
      fence_sums();
      add_weighted_panels<128, 128>(out, weights, v_rows + stage * shape::v_bytes, shape::panel_bytes);
      commit_products();
    };
    const auto let_go = [&](mbarrier& barrier) {
      if (lane == 0) barrier.arrive();
    };

    unsigned keys_before = 0;
    for (unsigned places_before = 0;; ++places_before) {
      const unsigned slot = places_before % 2;
      barriers.place_full[slot].wait(places_before / 2 & 1);
      const sm90_forward_place& place = places[slot];
      if (place.seen == 0) break;
      const int tiles = place.key_tiles();
      // Of key 0 on, this thread's upper row sees keys below `visible`; all rows of the warpgroup those below
      // `seen_by_all`.
      const int visible = place.before + place.first + row + 1;
      const int seen_by_all = place.before + place.first + group * 64 + 1;
      sm90_softmax softmax;
#pragma unroll
      for (int i = 0; i < 64; ++i) out[i] = 0;

      barriers.q_full.wait(places_before & 1);
      barriers.k_full[keys_before % 2].wait(keys_before / 2 & 1);
      multiply(keys_before % 2);
      if (group == 1 && tiles > 1) named_arrive(other_turn, 256);  // the first turn is the other's
      wait_products<0>();
      pin(scores);
      let_go(barriers.k_empty[keys_before % 2]);
      softmax.template absorb<true>(scores, scale, visible - (tiles - 1) * shape::keys, stays);
      round_sums<128>(weights, scores);
      if (const int rest = place.seen - (tiles - 1) * shape::keys; rest < shape::keys) {
        // Rows of nobody, or of the next sequence: a weight of zero must not meet a NaN.
        barriers.v_full[keys_before % 2].wait(keys_before / 2 & 1);
        clear_rows<2>(v_rows + keys_before % 2 * shape::v_bytes, shape::panel_bytes, rest, shape::keys,
                      own_barrier);
      }
      // Masked and other tiles in two loops: a branch between the products of a tile would wait for them.
      const auto step = [&](int i, auto edge) {
        const unsigned it = keys_before + i, stage = it % 2, stage_before = stage ^ 1;
        barriers.k_full[stage].wait(it / 2 & 1);
        named_sync(own_turn, 256);
        multiply(stage);
        barriers.v_full[stage_before].wait((it - 1) / 2 & 1);
        add_values(stage_before);
        if (group == 0 || i + 1 < tiles) named_arrive(other_turn, 256);
        wait_products<1>();
        pin(scores);
        let_go(barriers.k_empty[stage]);
        softmax.template absorb<edge.value>(scores, scale, visible - (tiles - 1 - i) * shape::keys, stays);
        pin(scores);
        wait_products<0>();
        pin(out), pin(scores);
        let_go(barriers.v_empty[stage_before]);
        round_sums<128>(weights, scores);
#pragma unroll
        for (int j = 0; j < 64; ++j) out[j] *= stays[j / 2 % 2];
      };
      int i = 1;
      for (; i < tiles - seen_by_all / shape::keys; ++i) step(i, std::true_type{});
      for (; i < tiles; ++i) step(i, std::false_type{});
      let_go(barriers.q_empty);
      keys_before += tiles;
      barriers.v_full[(keys_before - 1) % 2].wait((keys_before - 1) / 2 & 1);
      add_values((keys_before - 1) % 2);
      float share[2];
      const int head = place.head, rows = place.end - place.first;
      const index_t token = place.token + place.first;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float sum = sum_lanes<4>(softmax.sum[half]);
        share[half] = 1 / sum;
        if (lane % 4 == 0 && row + half * 8 < rows && !lse.empty())
          lse(head, token + row + half * 8) = softmax.highest[half] * score_scale + logf(sum);
      }
      wait_products<0>();
      pin(out);
      let_go(barriers.v_empty[(keys_before - 1) % 2]);
      let_go(barriers.place_empty[slot]);
      const int warp_row = group * 64 + static_cast<int>(threadIdx.x / 32 % 4) * 16;
      Element* const to = &o(token + warp_row, head, 0);
      const index_t stride = o.stride(0);
      store_rows<128>(out, share[0], share[1], rows - warp_row, [&](int r) { return to + r * stride; });
    }
  }
#else
  __trap();
#endif
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
