// SPDX-License-Identifier: MIT
// Absorbed attention on any GPU: which rows meet which keys, and how their results come together.
#pragma once

#include <dsv3/cuda/attention/cache_rows.cuh>
#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/attention/mla_decode.hpp>

#include <cmath>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

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

// ---- selection --------------------------------------------------------------------------------------------

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

// ---- kernels ----------------------------------------------------------------------------------------------

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

/// What both kernels keep in shared memory besides their operands.
template <class Acc>
struct decode_room {
  static constexpr int rows = decode_tiles.rows, keys = decode_tiles.keys;
  static_assert(rows == 32 && keys == 32);

  Acc scores[rows][keys + 1];
  Acc factor[rows], addend[rows];                // of earlier sums, and of a split's when it joins them
  decode_softmax<Acc> state[rows], total[rows];  // of a split, and of those before it
  int seen[rows];                                // by each row, nothing beyond the last
  int count, most_seen;                          // of the block; threads have no registers for such things
  index_t sequence;

  /// Before all else, by all threads, before a barrier.
  __device__ void begin(const decode_rows& block) {
    if (threadIdx.x == 0)
      count = static_cast<int>(block.count()), most_seen = static_cast<int>(block.most_seen()),
      sequence = block.sequence;
    if (threadIdx.x < rows)
      seen[threadIdx.x] = threadIdx.x < block.count() ? static_cast<int>(block.seen(threadIdx.x)) : 0;
  }
  /// Keys of a tile that a row sees.
  __device__ int seen_of(int tile, int r) const { return min(max(seen[r] - tile, 0), keys); }

  /// Turns the scores of a tile into exp(score - highest), zero where a row does not see the key, and hands
  /// them to keep(row, key, weight). `factor` is what the row's sums are multiplied by first. By a block.
  template <class Keep>
  __device__ void weigh(int tile, const Keep& keep) {
    const int lane = threadIdx.x % 32;
    for (int r = threadIdx.x / 32; r < rows; r += decode_tiles.threads / 32) {
      const bool sees = lane < seen_of(tile, r);
      const decode_softmax<Acc> before = state[r];
      Acc top = sees ? scores[r][lane] : Acc(-INFINITY);
      top = fmax(reduce_lanes(top, [](Acc a, Acc b) { return fmax(a, b); }), before.highest);
      // Where every score so far is -infinity there is nothing to subtract: exp gives zero anyway.
      const Acc shift = top == Acc(-INFINITY) ? Acc(0) : top;
      const Acc weight = sees ? exp(scores[r][lane] - shift) : Acc(0);
      const Acc added = sum_lanes(weight), rescale = exp(before.highest - shift);
      keep(r, lane, weight);
      __syncwarp();  // all lanes have read the state
      if (lane == 0) factor[r] = rescale, state[r] = {top, fma(before.sum, rescale, added)};
    }
  }

  /// Begins a split. By all threads, before a barrier.
  __device__ void open() {
    if (threadIdx.x < rows) state[threadIdx.x] = {Acc(-INFINITY), Acc(0)};
  }
  /// Joins a split's statistics with those before it, if there are any. By all threads; ends with a barrier.
  __device__ void close(bool joins) {
    __syncthreads();
    if (threadIdx.x < rows) {
      const int r = threadIdx.x;
      decode_softmax<Acc> so_far = joins ? total[r] : state[r];
      if (joins) merge_softmax(so_far, state[r], factor[r], addend[r]);
      total[r] = so_far;
    }
    __syncthreads();
  }
  /// What a split's sum makes of the one before it.
  __device__ void leave(Acc& at, int r, Acc sum, bool joins) const {
    at = joins ? merge_sums(at, sum, factor[r], addend[r]) : sum;
  }
};

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

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
