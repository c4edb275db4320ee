// SPDX-License-Identifier: MIT
// Absorbed attention on the GPU: all heads of a few queries over rows of the latent cache, read where they
// lie.
#pragma once

#include <dsv3/cuda/attention/cache_rows.cuh>
#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/attention/mla_decode.hpp>

#include <algorithm>
#include <cmath>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- configuration
// -----------------------------------------------------------------------------------------------------------

/// All heads of all queries of a sequence are rows over the same keys; rows come in blocks. Keys come in
/// splits of whole tiles, each with a softmax of its own, merged in order. Where blocks and splits begin
/// depends on nothing but the row's number in its sequence, so the result of a query depends on the query and
/// the rows it sees alone: not on other queries and sequences, not on pages.
struct decode_config {
  int rows = 32, keys = 32;    // of a block, of a tile
  int depth = 64, panels = 8;  // columns that are in shared memory at a time; of those, sums in registers
  int threads = 256;
};
inline constexpr decode_config decode_tiles;
inline constexpr int decode_columns = decode_tiles.depth * decode_tiles.panels;  // of z, by a thread block

/// Every 256 rows up to 4096, every 512 up to 8192, every 1024 up to 16384, ...: never many.
DSV3_HOST_DEVICE constexpr index_t decode_split_begin(index_t split) {
  const index_t octave = split < 16 ? 0 : split / 8 - 1;
  return (index_t{256} << octave) * (split - 8 * octave);
}

// ---- selection
// -----------------------------------------------------------------------------------------------------------

/// Either every (block, split) is a thread block's and leaves what it has in scratch, or, where blocks alone
/// keep the multiprocessors busy, a thread block takes its rows through all splits: the same sums in the same
/// order.
struct decode_plan {
  index_t row_blocks;  // of a sequence
  index_t splits;      // of the longest sequence that the table can hold
  bool shared;         // splits are thread blocks

  DSV3_HOST_DEVICE index_t results_of_block() const { return shared ? splits : 1; }
};
template <class Args>
decode_plan plan_decode(const Args& args) {
  const index_t row_blocks = ceil_div(args.queries.max_length * args.q_latent.extent(1), decode_tiles.rows);
  index_t splits = 0;
  while (decode_split_begin(splits) < capacity_of(args.cache)) ++splits;
  return {row_blocks, splits, row_blocks * args.queries.sequences() < multiprocessors()};
}

// ---- kernels
// -----------------------------------------------------------------------------------------------------------

/// Rows [first, last) of the heads × queries of one sequence, head fastest.
struct decode_rows {
  index_t sequence, token, heads, queries, length, first, last;  // `token`: the sequence's first

  __device__ index_t count() const { return last - first; }
  __device__ index_t query(index_t row) const { return (first + row) / heads; }
  __device__ index_t head(index_t row) const { return (first + row) % heads; }
  // Rows of the cache that a row sees: it and its predecessors see a prefix each.
  __device__ index_t seen(index_t row) const { return max(length - queries + query(row) + 1, index_t{0}); }
  __device__ index_t most_seen() const { return count() > 0 ? seen(count() - 1) : 0; }
};
template <class Args>
__device__ decode_rows decode_rows_of(const Args& args, index_t row_blocks, index_t index,
                                      index_t block_rows) {
  const index_t b = index / row_blocks, heads = args.q_latent.extent(1);
  const index_range tokens = tokens_of(args.queries, b);
  const index_t rows = tokens.count() * heads, first = index % row_blocks * block_rows;
  return {.sequence = b,
          .token = tokens.begin,
          .heads = heads,
          .queries = tokens.count(),
          .length = length_of(args.cache, b),
          .first = min(first, rows),
          .last = min(first + block_rows, rows)};
}

/// The largest score of a row and the sum of exp(score - highest).
template <class Acc>
struct decode_softmax {
  Acc highest, sum;
};

/// What two results of a row are multiplied by where they become one, which is then `into`'s.
template <class Acc>
__device__ __forceinline__ void merge_softmax(decode_softmax<Acc>& into, const decode_softmax<Acc>& from,
                                              Acc& keep, Acc& add) {
  const Acc top = fmax(into.highest, from.highest);
  const Acc shift = top == Acc(-INFINITY) ? Acc(0) : top;
  keep = exp(into.highest - shift), add = exp(from.highest - shift);
  into = {top, fma(into.sum, keep, from.sum * add)};
}
template <class Acc>
__device__ __forceinline__ Acc merge_sums(Acc into, Acc from, Acc keep, Acc add) {
  return fma(into, keep, from * add);
}

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
__global__ void __launch_bounds__(decode_tiles.threads)
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
  __shared__ acc p[c.rows][c.keys + 1];
  __shared__ acc factor[c.rows];
  __shared__ decode_softmax<acc> state[c.rows], total[c.rows];
  __shared__ const activation<P>*latent[c.rows], *rope[c.rows];
  __shared__ const element* key[c.keys];

  const index_t index = blockIdx.x / plan.results_of_block();
  const decode_rows rows = decode_rows_of(args, plan.row_blocks, index, c.rows);
  const index_t most_seen = rows.most_seen();
  const index_t first_split = blockIdx.x % plan.results_of_block();
  if (decode_split_begin(first_split) >= most_seen) return;

  const int thread = threadIdx.x, lane = thread % 32, count = static_cast<int>(rows.count());
  const int x = thread % half, y = thread / half;
  const index_t rank = args.q_latent.extent(2), columns = rank + args.q_rope.extent(2);
  const index_t first_column = static_cast<index_t>(blockIdx.y) * decode_columns;
  if (thread < c.rows) {
    const index_t t = rows.token + rows.query(thread);
    latent[thread] = thread < count ? args.q_latent[t][rows.head(thread)].data() : nullptr;
    rope[thread] = thread < count ? args.q_rope[t][rows.head(thread)].data() : nullptr;
  }

  // Columns [first, first + depth) of the tile's keys, zeros where there are none.
  const auto stage_keys = [&](index_t first, index_t end) {
    for (int i = thread; i < c.keys * c.depth; i += c.threads) {
      const int j = i / c.depth, e = i % c.depth;
      k[j * stride + e] = key[j] != nullptr && first + e < end
                              ? static_cast<acc>(cached<activation<P>>(Row{}, key[j], rank, first + e))
                              : acc(0);
    }
  };
  const auto stage_queries = [&](index_t first) {
    for (int i = thread; i < c.rows * c.depth; i += c.threads) {
      const int r = i / c.depth;
      const index_t e = first + i % c.depth;
      q[r * stride + i % c.depth] = r >= count || e >= columns ? acc(0)
                                    : e < rank                 ? static_cast<acc>(latent[r][e])
                                                               : static_cast<acc>(rope[r][e - rank]);
    }
  };

  acc held[c.panels][2][4];
  for (index_t split = first_split; decode_split_begin(split) < most_seen; ++split) {
    const index_t split_end = decode_split_begin(split + 1);
    const index_t end = min(split_end, most_seen);
#pragma unroll
    for (int panel = 0; panel < c.panels; ++panel)
#pragma unroll
      for (int i = 0; i < 8; ++i) held[panel][i / 4][i % 4] = 0;
    if (thread < c.rows) state[thread] = {acc(-INFINITY), acc(0)};

    for (index_t tile = decode_split_begin(split); tile < end; tile += c.keys) {
      if (thread < c.keys)
        key[thread] = tile + thread < end ? row_of(args.cache, rows.sequence, tile + thread) : nullptr;
      __syncthreads();

      // Scores of rows y, y + half and keys x, x + half.
      acc score[2][2] = {};
      for (index_t first = 0; first < columns; first += c.depth) {
        stage_queries(first), stage_keys(first, columns);
        __syncthreads();
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
              score[i / 2][i % 2] = fma(a[i / 2][w], b[i % 2][w], score[i / 2][i % 2]);
        }
        __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
        p[y + half * (i / 2)][x + half * (i % 2)] = static_cast<acc>(args.scale) * score[i / 2][i % 2];
      __syncthreads();

      // Keys of the tile that a row sees.
      const auto seen = [&](int r) {
        const index_t rest = (r < count ? rows.seen(r) : 0) - tile;
        return static_cast<int>(rest < 0 ? 0 : rest < c.keys ? rest : c.keys);
      };
      for (int r = thread / 32; r < c.rows; r += c.threads / 32) {
        const bool sees = lane < seen(r);
        const decode_softmax<acc> before = state[r];
        acc top = sees ? p[r][lane] : acc(-INFINITY);
        top = reduce_lanes(top, [](acc a, acc b) { return fmax(a, b); });
        top = fmax(top, before.highest);
        // Where every score so far is -infinity there is nothing to subtract: exp gives zero anyway.
        const acc shift = top == acc(-INFINITY) ? acc(0) : top;
        const acc weight = sees ? exp(p[r][lane] - shift) : acc(0);
        const acc added = sum_lanes(weight), rescale = exp(before.highest - shift);
        p[r][lane] = weight;
        if (lane == 0) factor[r] = rescale, state[r] = {top, fma(before.sum, rescale, added)};
      }
      __syncthreads();

      // Weighted sums. What a row does not see is not multiplied: it may be NaN.
      const int seen_by[2] = {seen(y), seen(y + half)};
      const acc rescale[2] = {factor[y], factor[y + half]};
      const bool all = seen(0) == c.keys;  // what the first row sees all see
#pragma unroll
      for (int panel = 0; panel < c.panels; ++panel) {
        const index_t first = first_column + panel * c.depth;
        if (first >= rank) break;
        stage_keys(first, rank);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 8; ++i) held[panel][i / 4][i % 4] *= rescale[i / 4];
        const auto add = [&](int j, bool upper, bool lower) {
          const acc weights[2] = {p[y][j], p[y + half][j]};
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
    const bool merges = split > first_split;
    __syncthreads();
    acc keep[2] = {0, 0}, add[2] = {1, 1};
    for (int i = 0; i < 2; ++i) {
      decode_softmax<acc> so_far = merges ? total[y + half * i] : state[y + half * i];
      if (merges) merge_softmax(so_far, state[y + half * i], keep[i], add[i]);
      __syncthreads();
      if (x == 0) total[y + half * i] = so_far;
    }
    acc* to = sums + static_cast<index_t>(blockIdx.x) * c.rows * rank;
#pragma unroll
    for (int panel = 0; panel < c.panels; ++panel)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int r = y + half * (i / 4);
        const index_t column = first_column + panel * c.depth + 4 * x + i % 4;
        if (r < count && column < rank) {
          acc& at = to[r * rank + column];
          at = merges ? merge_sums(at, held[panel][i / 4][i % 4], keep[i / 4], add[i / 4])
                      : held[panel][i / 4][i % 4];
        }
      }
    if (plan.shared) break;
  }
  __syncthreads();
  if (blockIdx.y == 0 && thread < count)
    softmax[static_cast<index_t>(blockIdx.x) * c.rows + thread] = total[thread];
}

/// What decoding refuses.
struct decode_misuse {
  sequence_misuse queries;
  cache_misuse cache;
};

/// Merges the results of each row in order; a thread block to a row, the first ones look after the numbers of
/// the sequences too.
template <class P, class Row>
__global__ void __launch_bounds__(128)
    combine_rows_kernel(typename op::mla_decode<P, Row>::forward_args args, decode_plan plan,
                        const accumulator<P>* sums, const decode_softmax<accumulator<P>>* softmax,
                        decode_misuse wrong) {
  using acc = accumulator<P>;
  constexpr index_t block_rows = decode_tiles.rows;
  if (blockIdx.x == 0 && threadIdx.x < 32) offsets_hold(args.queries, wrong.queries);
  if (static_cast<index_t>(blockIdx.x) < args.queries.sequences() && threadIdx.x < 32)
    check_cache(args.cache, blockIdx.x, wrong.cache);
  const index_t index = blockIdx.x / block_rows, r = blockIdx.x % block_rows;
  if (index >= plan.row_blocks * args.queries.sequences()) return;
  const decode_rows rows = decode_rows_of(args, plan.row_blocks, index, block_rows);
  if (r >= rows.count()) return;
  const index_t most_seen = rows.most_seen(), rank = args.q_latent.extent(2);
  const index_t t = rows.token + rows.query(r), head = rows.head(r);

  // A column without a number takes part for the sake of the softmax alone.
  for (index_t column = threadIdx.x; column < rank || column == 0; column += blockDim.x) {
    decode_softmax<acc> total{acc(-INFINITY), acc(0)};
    acc sum = 0;
    for (index_t split = 0; split < plan.results_of_block() && decode_split_begin(split) < most_seen;
         ++split) {
      const index_t at = (index * plan.results_of_block() + split) * block_rows + r;
      const acc from = column < rank ? sums[at * rank + column] : acc(0);
      if (split == 0) {
        total = softmax[at], sum = from;
      } else {
        acc keep, add;
        merge_softmax(total, softmax[at], keep, add);
        sum = merge_sums(sum, from, keep, add);
      }
    }
    const acc divisor = rows.seen(r) > 0 ? total.sum : acc(1);
    if (column < rank) args.z(t, head, column) = activation<P>(sum / divisor);
    if (column == 0 && !args.lse.empty()) args.lse(head, t) = total.highest + log(total.sum);
  }
}

}  // namespace cuda::detail

// ---- launch
// -----------------------------------------------------------------------------------------------------------

template <class P, class Row>
struct implementation<op::mla_decode<P, Row>, backend::cuda> {
  using acc = accumulator<P>;
  using forward_args = typename op::mla_decode<P, Row>::forward_args;

  struct workspace {
    view<acc, 3> sums;                                   // [results, rows, kv_rank]   Σ exp(S - highest) c
    view<cuda::detail::decode_softmax<acc>, 2> softmax;  // [results, rows]
  };

  template <class Ctx>
  static workspace scratch(const Ctx&, scratch_arena& arena, const forward_args& args) {
    const auto plan = cuda::detail::plan_decode(args);
    const index_t results = plan.row_blocks * args.queries.sequences() * plan.results_of_block();
    constexpr index_t rows = cuda::detail::decode_tiles.rows;
    return {.sums = arena.tensor<acc>(results, rows, args.q_latent.extent(2)),
            .softmax = arena.tensor<cuda::detail::decode_softmax<acc>>(results, rows)};
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    using namespace cuda::detail;
    const workspace work = scratch(ctx, ctx.scratch, args);
    const decode_plan plan = plan_decode(args);
    const index_t sequences = args.queries.sequences(), blocks = plan.row_blocks * sequences;
    const index_t panels = std::max<index_t>(ceil_div(args.q_latent.extent(2), decode_columns), 1);
    cuda::launch(
        forward_args::name, ctx.stream,
        {.grid = dim3(static_cast<unsigned>(blocks * plan.results_of_block()), static_cast<unsigned>(panels)),
         .block = decode_tiles.threads},
        decode_rows_kernel<P, Row>, args, plan, work.sums.data(), work.softmax.data());
    const decode_misuse wrong{cuda::sequence_misuse_of(ctx, forward_args::name),
                              cuda::cache_misuse_of(ctx, forward_args::name)};
    cuda::launch(
        forward_args::name, ctx.stream,
        {.grid = static_cast<unsigned>(std::max({blocks * decode_tiles.rows, sequences, index_t{1}})),
         .block = 128},
        combine_rows_kernel<P, Row>, args, plan, work.sums.data(), work.softmax.data(), wrong);
  }
};

}  // namespace dsv3::inline DSV3_ABI
