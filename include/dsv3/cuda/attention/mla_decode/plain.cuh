// SPDX-License-Identifier: MIT
// Absorbed attention by fused multiply-adds: any precision, any extents, any alignment.
#pragma once

#include <dsv3/cuda/attention/mla_decode/rows.cuh>
#include <dsv3/cuda/device/vector.cuh>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// Column e of a row (c, k_rope).
template <class Activation>
__device__ __forceinline__ Activation cached(cache_row::plain, const Activation* row, index_t, index_t e) {
  return row[e];
}
template <class Activation>
__device__ __forceinline__ Activation cached(cache_row::fp8, const std::uint8_t* row, index_t rank,
                                             index_t e) {
  const auto bits = [row](index_t at) { return static_cast<std::uint32_t>(row[at]); };
  if (e >= rank) {
    const index_t at = cache_row::fp8::rope_at(rank) + 2 * (e - rank);
    return Activation(float(bf16::from_bits(static_cast<std::uint16_t>(bits(at) | bits(at + 1) << 8))));
  }
  const index_t at = cache_row::fp8::scales_at(rank) + e / 128 * 4;
  const float scale = __uint_as_float(bits(at) | bits(at + 1) << 8 | bits(at + 2) << 16 | bits(at + 3) << 24);
  return Activation(float(fp8_e4m3::from_bits(row[e])) * scale);
}

/// One block of rows over one split, or over all of them, for up to decode_columns columns of z. A
/// thread holds four neighbouring columns of each panel for two rows.
template <class P, class Row>
__global__ void __launch_bounds__(decode_tiles.threads, 1)
    decode_rows_kernel(typename op::mla_decode<P, Row>::forward_args args, decode_plan plan,
                       accumulator<P>* sums, decode_softmax<accumulator<P>>* softmax) {
  using acc = accumulator<P>;
  using element = typename op::mla_decode<P, Row>::element;
  constexpr decode_config c = decode_tiles;
  constexpr int width = 16 / sizeof(acc);  // of a pack
  constexpr int stride = c.depth + width;  // rows meet different banks
  constexpr int half = c.rows / 2;
  static_assert(c.keys == 32 && c.rows == 32 && c.threads == half * half && c.depth == 4 * half);
  __shared__ alignas(16) acc q[c.rows * stride], k[c.keys * stride];
  __shared__ decode_room<acc> room;
  __shared__ const activation<P>*latent[c.rows], *rope[c.rows];
  __shared__ const element* key[c.keys];

  const index_t index = blockIdx.x / plan.results_of_block();
  const decode_rows rows = decode_rows_of(args, plan.row_blocks, index, c.rows);
  const int most_seen = static_cast<int>(rows.most_seen());
  const int first_split = static_cast<int>(blockIdx.x % plan.results_of_block());
  if (decode_split_begin(first_split) >= most_seen) return;

  room.begin(rows);
  const index_t sequence = rows.sequence;
  const int thread = threadIdx.x, count = static_cast<int>(rows.count());
  const int x = thread % half, y = thread / half;
  const index_t rank = args.q_latent.extent(2), columns = rank + args.q_rope.extent(2);
  const index_t first_column = static_cast<index_t>(blockIdx.y) * decode_columns;
  if (thread < c.rows) {
    const index_t t = rows.token + rows.query(thread);
    latent[thread] = thread < count ? args.q_latent[t][rows.head(thread)].data() : nullptr;
    rope[thread] = thread < count ? args.q_rope[t][rows.head(thread)].data() : nullptr;
  }

  // Columns [first, first + depth) of the tile's keys and of the queries, zeros where there are none. All
  // loads are under way before the first number is stored.
  constexpr int each = c.keys * c.depth / c.threads;
  const auto load_keys = [&](acc(&to)[each], index_t first, index_t end) {
    const index_t e = first + thread % c.depth;
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const element* row = key[thread / c.depth + i * (c.threads / c.depth)];
      to[i] =
          row != nullptr && e < end ? static_cast<acc>(cached<activation<P>>(Row{}, row, rank, e)) : acc(0);
    }
  };
  const auto load_queries = [&](acc(&to)[each], index_t first) {
    const index_t e = first + thread % c.depth;
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const int r = thread / c.depth + i * (c.threads / c.depth);
      to[i] = r >= count || e >= columns ? acc(0)
              : e < rank                 ? static_cast<acc>(latent[r][e])
                                         : static_cast<acc>(rope[r][e - rank]);
    }
  };
  const auto store = [&](const acc(&from)[each], acc* to) {
#pragma unroll
    for (int i = 0; i < each; ++i)
      to[(thread / c.depth + i * (c.threads / c.depth)) * stride + thread % c.depth] = from[i];
  };

  acc held[c.panels][2][4];
  for (int split = first_split; decode_split_begin(split) < most_seen; ++split) {
    const int end = static_cast<int>(min(decode_split_begin(split + 1), index_t{most_seen}));
#pragma unroll
    for (int panel = 0; panel < c.panels; ++panel)
#pragma unroll
      for (int i = 0; i < 8; ++i) held[panel][i / 4][i % 4] = 0;
    room.open();

    for (int tile = static_cast<int>(decode_split_begin(split)); tile < end; tile += c.keys) {
      if (thread < c.keys)
        key[thread] = tile + thread < end ? row_of(args.cache, sequence, tile + thread) : nullptr;
      __syncthreads();

      // Scores of rows y, y + half and keys x, x + half.
      acc score[2][2] = {};
      for (index_t first = 0; first < columns; first += c.depth) {
        acc asked[each], answered[each];
        load_queries(asked, first), load_keys(answered, first, columns);
        store(asked, q), store(answered, k);
        __syncthreads();
        acc panel[2][2] = {};  // a short sum at a time loses less
#pragma unroll 4
        for (int e = 0; e < c.depth; e += width) {
          pack<acc, width> a[2], b[2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            a[i] = load_pack<width>(q + (y + half * i) * stride + e);
            b[i] = load_pack<width>(k + (x + half * i) * stride + e);
          }
#pragma unroll
          for (int w = 0; w < width; ++w)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              panel[i / 2][i % 2] = fma(a[i / 2][w], b[i % 2][w], panel[i / 2][i % 2]);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) score[i / 2][i % 2] += panel[i / 2][i % 2];
        __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
        room.scores[y + half * (i / 2)][x + half * (i % 2)] =
            static_cast<acc>(args.scale) * score[i / 2][i % 2];
      __syncthreads();

      room.weigh(tile, [](int r, int j, acc weight) { room.scores[r][j] = weight; });
      __syncthreads();

      // Weighted sums. What a row does not see is not multiplied: it may be NaN.
      const int seen_by[2] = {room.seen_of(tile, y), room.seen_of(tile, y + half)};
      const acc rescale[2] = {room.factor[y], room.factor[y + half]};
      const bool all = room.seen_of(tile, 0) == c.keys;  // what the first row sees all see
#pragma unroll
      for (int panel = 0; panel < c.panels; ++panel) {
        const index_t first = first_column + panel * c.depth;
        if (first >= rank) break;
        acc values_of[each];
        load_keys(values_of, first, rank);
        store(values_of, k);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 8; ++i) held[panel][i / 4][i % 4] *= rescale[i / 4];
        const auto add = [&](int j, bool upper, bool lower) {
          const acc weights[2] = {room.scores[y][j], room.scores[y + half][j]};
#pragma unroll
          for (int e = 0; e < 4; e += width) {
            const auto values = load_pack<width>(k + j * stride + 4 * x + e);
#pragma unroll
            for (int w = 0; w < width; ++w) {
              if (upper) held[panel][0][e + w] = fma(weights[0], values[w], held[panel][0][e + w]);
              if (lower) held[panel][1][e + w] = fma(weights[1], values[w], held[panel][1][e + w]);
            }
          }
        };
        if (all) {
#pragma unroll 4
          for (int j = 0; j < c.keys; ++j) add(j, true, true);
        } else {
          for (int j = 0; j < c.keys; ++j) add(j, j < seen_by[0], j < seen_by[1]);
        }
        __syncthreads();
      }
    }

    // The split's result, or what it makes of those before it. Each thread meets its own sums again.
    const bool joins = split > first_split;
    room.close(joins);
    acc* to = sums + static_cast<index_t>(blockIdx.x) * c.rows * rank;
#pragma unroll
    for (int panel = 0; panel < c.panels; ++panel)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int r = y + half * (i / 4);
        const index_t column = first_column + panel * c.depth + 4 * x + i % 4;
        if (r < count && column < rank)
          room.leave(to[r * rank + column], r, held[panel][i / 4][i % 4], joins);
      }
    if (plan.shared) break;
  }
  if (blockIdx.y == 0 && thread < count)
    softmax[static_cast<index_t>(blockIdx.x) * c.rows + thread] = room.total[thread];
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
