// SPDX-License-Identifier: MIT
// Latent attention's backward pass on Hopper: some blocks compute gradients of keys and values, others those
// of queries. Each computes the scores anew and owns what it sums, so there is one order of summation,
// nothing is added in memory, and no tile waits for another. That is 1152 products for each score where 832
// would do.
//
// As in forward a warpgroup copies and two compute 64 rows each. Weights never leave registers: the scores
// are transposed for keys and values, so that the rounded sums of a product are the left operand of the next.
#pragma once

#include <dsv3/cuda/attention/mla_attention/tiles_sm90.cuh>
#include <dsv3/cuda/device/vector.cuh>

#include <type_traits>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// A block keeps its own 128 rows (k and v, or q and d_o) and walks over the others 64 at a time, three tiles
/// under way.
struct sm90_backward : sm90_attention {
  static constexpr int step = 64, stages = 3;
  static constexpr std::uint32_t own_panel = 128 * 128, own_qk = 3 * own_panel, own_v = 2 * own_panel;
  static constexpr std::uint32_t panel = 64 * 128, qk_bytes = 3 * panel, v_bytes = 2 * panel;
  static constexpr std::uint32_t row_bytes = 2 * step * sizeof(float);  // of lse and D
  static constexpr std::uint32_t stage_bytes = qk_bytes + v_bytes;
  static constexpr std::uint32_t shared_bytes = own_qk + own_v + stages * (stage_bytes + row_bytes) + 1024;
};

/// For each 64 queries of a sequence and head, 64 lse to base 2 and 64 D, zeros beyond the sequence. The
/// tiles of a sequence begin where those of the sequences before, however cut, end at the latest.
struct sm90_rows {
  view<float, 4> data;  // [heads, tiles, 2, 64]

  static index_t most(const packed_sequences& sequence) {
    return sequence.tokens() / sm90_backward::step + sequence.sequences();
  }
  __device__ index_t first_tile(index_t sequence, index_t first_token) const {
    return first_token / sm90_backward::step + sequence;
  }
};

// ---- kernels ----------------------------------------------------------------------------------------------

/// Fills the rows: 64 queries of a head, each by half a warp.
template <class Element>
__global__ void __launch_bounds__(256)
    sm90_rows_kernel(view<const Element, 3> o, view<const Element, 3> d_o, view<const float, 2> lse,
                     packed_sequences sequence, sm90_rows to) {
  const sequence_tile at = find_tile(sequence, 64, blockIdx.x);
  if (at.sequence < 0) return;
  const index_range tokens = tokens_of(sequence, at.sequence);
  const index_t head = blockIdx.y, tile = to.first_tile(at.sequence, tokens.begin) + at.tile;
  const int half = static_cast<int>(threadIdx.x / 16), part = static_cast<int>(threadIdx.x % 16);
  float* const row_values = &to.data(head, tile, 0, 0);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = half + 16 * i;
    const index_t t = tokens.begin + at.tile * 64 + row;
    const bool inside = t < tokens.end;
    float sum = 0;
    if (inside) {
      const auto a = load_pack<8>(&o(t, head, 0) + part * 8), b = load_pack<8>(&d_o(t, head, 0) + part * 8);
#pragma unroll
      for (int e = 0; e < 8; ++e) sum += static_cast<float>(a[e]) * static_cast<float>(b[e]);
    }
    sum = sum_lanes<16>(sum);
    if (part == 0) {
      row_values[row] = inside ? lse(head, t) * log2_of_e : 0.f;
      row_values[64 + row] = sum;
    }
  }
}

/// Where a block works, kept in shared memory: what is needed at its end need not wait in registers.
struct sm90_backward_place {
  int head, token, length, first;  // rows from `first` on of a sequence of `length`
  int tiles;                       // of the others: queries from these keys on, or keys up to these queries
  const float* row_values;         // of the sequence's first query
};

struct sm90_backward_barriers {
  mbarrier own_full, full[3], empty[3];

#if DSV3_SM90A
  /// `groups` warpgroups let tiles go, by an arrival of each of their warps.
  __device__ void init(int groups) {
    own_full.init(1);
    for (int i = 0; i < 3; ++i) full[i].init(1), empty[i].init(4u * static_cast<unsigned>(groups));
    publish_barriers();
  }
#endif
};

#if DSV3_SM90A

__device__ __forceinline__ float2 load_pair(std::uint32_t from) {
  float2 pair;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(from) : "memory");
  return pair;
}

/// 64 rows of three panels of q, or of k whose last panel is k_rope.
__device__ __forceinline__ void load_q(unsigned char* to, std::uint32_t panel, const CUtensorMap& q_map,
                                       mbarrier& full, int head, int row) {
#pragma unroll
  for (int i = 0; i < 3; ++i) load_box(to + i * panel, q_map, full, i * 64, head, row);
}
__device__ __forceinline__ void load_k(unsigned char* to, std::uint32_t panel, const CUtensorMap& kv_map,
                                       const CUtensorMap& rope_map, mbarrier& full, int head, int row) {
  load_box(to, kv_map, full, 0, head, row);
  load_box(to + panel, kv_map, full, 64, head, row);
  load_box(to + 2 * panel, rope_map, full, 0, row);
}
/// Of two panels from `column` on: v of kv, or d_o.
__device__ __forceinline__ void load_v(unsigned char* to, std::uint32_t panel, const CUtensorMap& map,
                                       mbarrier& full, int column, int head, int row) {
  load_box(to, map, full, column, head, row);
  load_box(to + panel, map, full, column + 64, head, row);
}

/// dk and dv of 128 keys of a head.
template <class Element>
__device__ __forceinline__ void sm90_keys(const CUtensorMap& q_map, const CUtensorMap& kv_map,
                                          const CUtensorMap& rope_map, const CUtensorMap& d_o_map,
                                          float score_scale, const attention_gradients<Element, float>& to,
                                          const sm90_backward_place& where, sm90_backward_barriers& barriers,
                                          unsigned char* room) {
  using shape = sm90_backward;
  unsigned char *const k_tile = room, *const v_tile = k_tile + shape::own_qk,
                       *const stages = v_tile + shape::own_v,
                       *const row_stages = stages + shape::stages * shape::stage_bytes;
  const int group = warpgroup() - 1, lane = static_cast<int>(threadIdx.x % 32);
  if (group < 0) {
    give_registers<shape::copy_registers>();
    if (threadIdx.x == 0) {
      const int head = where.head, token = where.token + where.first, tiles = where.tiles;
      barriers.own_full.arrive_and_expect(shape::own_qk + shape::own_v);
      for (int half = 0; half < 2; ++half) {
        load_k(k_tile + half * shape::panel, shape::own_panel, kv_map, rope_map, barriers.own_full, head,
               token + half * 64);
        load_v(v_tile + half * shape::panel, shape::own_panel, kv_map, barriers.own_full, shape::nope, head,
               token + half * 64);
      }
      const float* const row_values = where.row_values + where.first / 64 * 128;
      for (int j = 0, stage = 0, lap = 0; j < tiles; ++j) {
        barriers.empty[stage].wait(lap ^ 1);
        mbarrier& full = barriers.full[stage];
        full.arrive_and_expect(shape::stage_bytes + shape::row_bytes);
        unsigned char* const q_tile = stages + stage * shape::stage_bytes;
        load_q(q_tile, shape::panel, q_map, full, head, token + j * shape::step);
        load_v(q_tile + shape::qk_bytes, shape::panel, d_o_map, full, 0, head, token + j * shape::step);
        load_bytes(row_stages + stage * shape::row_bytes, row_values + j * 128, shape::row_bytes, full);
        if (++stage == shape::stages) stage = 0, lap ^= 1;
      }
    }
  } else {
    take_registers<shape::compute_registers>();
    const int thread = static_cast<int>(threadIdx.x % 128), warp = thread / 32;
    const std::uint32_t k_rows = shared_address(k_tile) + group * shape::panel,
                        v_rows = shared_address(v_tile) + group * shape::panel,
                        others = shared_address(stages), other_rows = shared_address(row_stages);
    const float scale = score_scale * log2_of_e;  // exponentials to base 2
    const int tiles = where.tiles;
    float scores[32], dk[96] = {}, dv[64] = {};
    std::uint32_t weights[4][4];
    int stage = 0, stage_before = 0, lap = 0;
    const auto release = [&](int which) {
      if (lane == 0) barriers.empty[which].arrive();
    };
    // Tile j. The warpgroup's first tile lies on the diagonal; of the last one queries may be missing: in
    // both some weights are zero by force. Beside dk and dv a thread has registers for one tile of scores,
    // which holds scores, weights and the gradients of both in turn. What it does between products is shorter
    // than the products of the other warpgroup, and hidden behind them.
    const auto compute = [&](int j, auto first_tile, auto last_tile) {
      constexpr bool masked = first_tile.value || last_tile.value;
      const std::uint32_t q_tile = others + stage * shape::stage_bytes, d_o_tile = q_tile + shape::qk_bytes;
      const std::uint32_t values = other_rows + stage * shape::row_bytes + thread % 4 * 8;
      const int diagonal = (group - j) * 64 + sum_row(thread, 0), rest = where.length - where.first - j * 64;
      const auto seen = [&](int i) {
        const int query = sum_column(thread, i);
        return query >= diagonal + i / 2 % 2 * 8 && query < rest;
      };
      barriers.full[stage].wait(lap);
      fence_sums();
      multiply_panels<64, 3>(scores, k_rows, shape::own_panel, q_tile, shape::panel);
      commit_products();
      if constexpr (!first_tile.value) {
        add_weighted_panels<192, 64>(dk, weights, others + stage_before * shape::stage_bytes, shape::panel);
        commit_products();
      }
      wait_products<0>();
      pin(scores), pin(dk);
      if constexpr (!first_tile.value) release(stage_before);
#pragma unroll
      for (int i = 0; i < 32; i += 4) {
        const float2 lse = load_pair(values + i * 8);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float p = exp2_approximately(scores[i + c] * scale - (c % 2 == 0 ? lse.x : lse.y));
          scores[i + c] = !masked || seen(i + c) ? p : 0.f;
        }
      }
      round_sums<64>(weights, scores);
      if constexpr (last_tile.value)
        // Queries of nobody, or of the next sequence: a weight of zero must not meet a NaN.
        if (rest < 64) clear_rows<5>(q_tile, shape::panel, rest, 64, 3 + group);
      fence_sums();
      multiply_panels<64, 2>(scores, v_rows, shape::own_panel, d_o_tile, shape::panel);
      commit_products();
      add_weighted_panels<128, 64>(dv, weights, d_o_tile, shape::panel);
      commit_products();
      wait_products<0>();
      pin(scores), pin(dv);
#pragma unroll
      for (int i = 0; i < 32; i += 4) {
        const float2 mean = load_pair(values + 256 + i * 8);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float2 p = unpack_bf16(weights[i / 8][i / 4 % 2 * 2 + c / 2]);
          scores[i + c] = (c % 2 == 0 ? p.x : p.y) * (scores[i + c] - (c % 2 == 0 ? mean.x : mean.y));
        }
      }
      round_sums<64>(weights, scores);
      stage_before = stage;
      if (++stage == shape::stages) stage = 0, lap ^= 1;
    };

    barriers.own_full.wait(0);
    if (group == 1) {  // all queries of the first tile are before these keys
      barriers.full[0].wait(0);
      release(0);
      stage = 1;
    }
    if (group < tiles) {
      if (int j = group; j + 1 == tiles) {
        compute(j, std::true_type{}, std::true_type{});
      } else {
        compute(j, std::true_type{}, std::false_type{});
        for (++j; j + 1 < tiles; ++j) compute(j, std::false_type{}, std::false_type{});
        compute(j, std::false_type{}, std::true_type{});
      }
      fence_sums();
      add_weighted_panels<192, 64>(dk, weights, others + stage_before * shape::stage_bytes, shape::panel);
      commit_products();
      wait_products<0>();
      pin(dk);
      const int row = where.first + group * 64 + warp * 16, count = where.length - row;
      Element* const dkv = &to.dkv(where.token + row, where.head, 0);
      const index_t stride = to.dkv.stride(0);
      store_rows<128>(dk, score_scale, score_scale, count, [&](int r) { return dkv + r * stride; });
      store_rows<128>(dv, 1.f, 1.f, count, [&](int r) { return dkv + r * stride + shape::nope; });
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int own = fragment_row(lane) + 8 * h;
        if (own >= count) continue;
        float* const partial = &to.partial(where.head, where.token + row + own, 0);
#pragma unroll
        for (int i = 64; i < 96; i += 4)
          *reinterpret_cast<float2*>(partial + sum_column(thread, i) - shape::nope) = {
              dk[i + 2 * h] * score_scale, dk[i + 2 * h + 1] * score_scale};
      }
    }
  }
}

/// dq of 128 queries of a head.
template <class Element>
__device__ __forceinline__ void sm90_queries(const CUtensorMap& q_map, const CUtensorMap& kv_map,
                                             const CUtensorMap& rope_map, const CUtensorMap& d_o_map,
                                             float score_scale, const view<Element, 3>& dq,
                                             const sm90_backward_place& where,
                                             sm90_backward_barriers& barriers, unsigned char* room) {
  using shape = sm90_backward;
  unsigned char *const q_tile = room, *const d_o_tile = q_tile + shape::own_qk,
                       *const stages = d_o_tile + shape::own_v;
  const int group = warpgroup() - 1, lane = static_cast<int>(threadIdx.x % 32);
  const int first = where.first, tiles = where.tiles;

  if (group < 0) {
    give_registers<shape::copy_registers>();
    if (threadIdx.x == 0) {
      const int head = where.head, token = where.token;
      barriers.own_full.arrive_and_expect(shape::own_qk + shape::own_v);
      for (int half = 0; half < 2; ++half) {
        load_q(q_tile + half * shape::panel, shape::own_panel, q_map, barriers.own_full, head,
               token + first + half * 64);
        load_v(d_o_tile + half * shape::panel, shape::own_panel, d_o_map, barriers.own_full, 0, head,
               token + first + half * 64);
      }
      for (int j = 0, stage = 0, lap = 0; j < tiles; ++j) {
        barriers.empty[stage].wait(lap ^ 1);
        mbarrier& full = barriers.full[stage];
        full.arrive_and_expect(shape::stage_bytes);
        unsigned char* const k_tile = stages + stage * shape::stage_bytes;
        load_k(k_tile, shape::panel, kv_map, rope_map, full, head, token + j * shape::step);
        load_v(k_tile + shape::qk_bytes, shape::panel, kv_map, full, shape::nope, head,
               token + j * shape::step);
        if (++stage == shape::stages) stage = 0, lap ^= 1;
      }
    }
  } else {
    take_registers<shape::compute_registers>();
    const int thread = static_cast<int>(threadIdx.x % 128), warp = thread / 32;
    const std::uint32_t q_rows = shared_address(q_tile) + group * shape::panel,
                        d_o_rows = shared_address(d_o_tile) + group * shape::panel,
                        others = shared_address(stages);
    const float scale = score_scale * log2_of_e;  // exponentials to base 2
    // The tile of a warpgroup that lies on the diagonal is its last. It has none where the sequence ends
    // before its queries begin.
    const int own_tiles = first / shape::step + group + 1;
    float scores[32], slope[32], sums[96] = {}, lse[2], mean[2];
    std::uint32_t weights[4][4];
    int stage = 0, stage_before = 0, lap = 0;
    const auto release = [&](int which) {
      if (lane == 0) barriers.empty[which].arrive();
    };
    // Tile j. The sums over the tile before run while exponentials are taken.
    const auto compute = [&](auto first_tile, auto last_tile) {
      const std::uint32_t k_tile = others + stage * shape::stage_bytes;
      barriers.full[stage].wait(lap);
      fence_sums();
      multiply_panels<64, 3>(scores, q_rows, shape::own_panel, k_tile, shape::panel);
      commit_products();
      multiply_panels<64, 2>(slope, d_o_rows, shape::own_panel, k_tile + shape::qk_bytes, shape::panel);
      if constexpr (!first_tile.value)
        add_weighted_panels<192, 64>(sums, weights, others + stage_before * shape::stage_bytes, shape::panel);
      commit_products();
      wait_products<1>();
      pin(scores);
#pragma unroll
      for (int i = 0; i < 32; ++i) scores[i] = exp2_approximately(scores[i] * scale - lse[i / 2 % 2]);
      pin(scores);
      wait_products<0>();
      pin(slope), pin(sums), pin(scores);
      if constexpr (!first_tile.value) release(stage_before);
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        slope[i] = scores[i] * (slope[i] - mean[i / 2 % 2]);
        if (last_tile.value && sum_column(thread, i) > sum_row(thread, i)) slope[i] = 0;
      }
      round_sums<64>(weights, slope);
      stage_before = stage;
      if (++stage == shape::stages) stage = 0, lap ^= 1;
    };

    if (own_tiles <= tiles) {
      // The rows of the warpgroup are a tile of 64, which has 64 lse and then 64 D.
      const float* const row_values = where.row_values + (first / 64 + group) * 128;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        lse[h] = row_values[sum_row(thread, 2 * h)];
        mean[h] = row_values[64 + sum_row(thread, 2 * h)];
      }
      barriers.own_full.wait(0);
      if (own_tiles == 1) {
        compute(std::true_type{}, std::true_type{});
      } else {
        compute(std::true_type{}, std::false_type{});
        for (int j = 1; j + 1 < own_tiles; ++j) compute(std::false_type{}, std::false_type{});
        compute(std::false_type{}, std::true_type{});
      }
      const std::uint32_t k_tile = others + stage_before * shape::stage_bytes;
      if (const int rest = where.length - (own_tiles - 1) * 64; rest < 64)
        // Keys of nobody, or of the next sequence: a weight of zero must not meet a NaN.
        clear_rows<3>(k_tile, shape::panel, rest, 64, 3 + group);
      fence_sums();
      add_weighted_panels<192, 64>(sums, weights, k_tile, shape::panel);
      commit_products();
      wait_products<0>();
      pin(sums);
      const int row = first + group * 64 + warp * 16;
      Element* const to = &dq(where.token + row, where.head, 0);
      const index_t stride = dq.stride(0);
      store_rows<192>(sums, score_scale, score_scale, where.length - row,
                      [&](int r) { return to + r * stride; });
    }
  }
}

#endif

/// The blocks of keys come first, those of queries after them.
template <class Element>
__global__ void __launch_bounds__(sm90_backward::threads, 1)
    sm90_backward_kernel(const __grid_constant__ CUtensorMap q_map,
                         const __grid_constant__ CUtensorMap kv_map,
                         const __grid_constant__ CUtensorMap rope_map,
                         const __grid_constant__ CUtensorMap d_o_map, float score_scale, sm90_rows rows,
                         const __grid_constant__ attention_gradients<Element, float> to, sm90_plan plan,
                         sm90_order order) {
#if DSV3_SM90A
  using shape = sm90_backward;
  extern __shared__ unsigned char dynamic[];
  __shared__ sm90_backward_barriers barriers;
  __shared__ sm90_backward_place where;
  const bool of_keys = blockIdx.x < order.count();
  const auto [number, head] = order.at(of_keys ? blockIdx.x : blockIdx.x - order.count());
  const sm90_tile tile = plan.tiles(number);
  if (tile.sequence < 0) return;
  if (threadIdx.x == 0) {
    // Early keys are seen by most queries, and late queries see most keys: they go first.
    const int first = of_keys ? tile.first : tile.mirrored();
    const int rest = tile.length - first, seen = min(first + shape::rows, tile.length);
    where = {head,
             tile.token,
             tile.length,
             first,
             ((of_keys ? rest : seen) + shape::step - 1) / shape::step,
             &rows.data(head, rows.first_tile(tile.sequence, tile.token), 0, 0)};
    barriers.init(of_keys || rest > 64 ? 2 : 1);
  }
  __syncthreads();
  unsigned char* const room = swizzle_aligned(dynamic);
  if (of_keys)
    sm90_keys(q_map, kv_map, rope_map, d_o_map, score_scale, to, where, barriers, room);
  else
    sm90_queries(q_map, kv_map, rope_map, d_o_map, score_scale, to.dq, where, barriers, room);
#else
  __trap();
#endif
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
