// SPDX-License-Identifier: MIT
// Packed sequences as kernels see them: their tokens, their tiles, and what they must fulfil.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/tensor/packed_sequences.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cuda {

/// The tokens of a sequence, within those there are whatever its offsets say.
__device__ __forceinline__ index_range tokens_of(const packed_sequences& sequence, index_t index) {
  const index_t tokens = sequence.tokens();
  const index_t begin = min(max(index_t{sequence.offsets(index)}, index_t{0}), tokens);
  return {begin, min(max(index_t{sequence.offsets(index + 1)}, begin), tokens)};
}

/// `tile` of the `tiles` that a sequence is cut into from its first token on.
struct sequence_tile {
  index_t sequence = -1, tile = 0, tiles = 0;
};

/// Tile `index` when the tiles of `rows` tokens of all sequences are counted one after the other; sequence -1
/// beyond the last. By all lanes of a warp.
__device__ inline sequence_tile find_tile(const packed_sequences& sequence, int rows, index_t index) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  index_t before = 0;
  for (index_t first = 0; first < sequence.sequences(); first += 32) {
    const index_t s = first + lane;
    const index_t own =
        s < sequence.sequences() ? ceil_div(tokens_of(sequence, s).count(), index_t{rows}) : 0;
    index_t reached = before + own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const index_t other = __shfl_up_sync(all_lanes, reached - before, step);
      if (lane >= step) reached += other;
    }
    if (const unsigned beyond = __ballot_sync(all_lanes, index < reached); beyond != 0) {
      const int owner = __ffs(static_cast<int>(beyond)) - 1;
      const index_t tiles = __shfl_sync(all_lanes, own, owner);
      return {first + owner, index - (__shfl_sync(all_lanes, reached, owner) - tiles), tiles};
    }
    before = __shfl_sync(all_lanes, reached, 31);
  }
  return {};
}

/// No fewer than the tiles of all sequences, from what the host knows.
inline index_t most_tiles(const packed_sequences& sequence, index_t rows) {
  const index_t sequences = std::min(sequence.sequences(), sequence.tokens());
  return std::min(sequence.tokens() / rows + sequences, sequences * ceil_div(sequence.max_length, rows));
}

/// The breaches of packed_sequences, as sentences of one operation.
struct sequence_misuse {
  misuse place, length, end;
};
template <class Ctx>
sequence_misuse sequence_misuse_of(Ctx& ctx, const char* name) {
  return {misuse_of(ctx, "sequence {} has the tokens [{}, {}), it must begin at {} and not end before", name),
          misuse_of(ctx, "sequence {} has {} tokens, max_length is {}", name),
          misuse_of(ctx, "the sequences end at token {}, there are {} tokens", name)};
}

/// Whether the sequences cover the tokens one after the other and are no longer than they say; reports the
/// first that does not. By all lanes of a warp.
__device__ inline bool offsets_hold(const packed_sequences& sequence, const sequence_misuse& wrong) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const index_t count = sequence.sequences();
  for (index_t first = 0; first < count; first += 32) {
    const index_t s = min(first + lane, count - 1);
    const index_t begin = sequence.offsets(s), end = sequence.offsets(s + 1), reached = s == 0 ? 0 : begin;
    const bool in_place = begin == reached && end >= begin, fits = end - begin <= sequence.max_length;
    if (const unsigned breaches = __ballot_sync(all_lanes, !in_place || !fits); breaches != 0) {
      if (lane == __ffs(static_cast<int>(breaches)) - 1) {
        if (!in_place)
          wrong.place.report(s, begin, end, reached);
        else
          wrong.length.report(s, end - begin, sequence.max_length);
      }
      return false;
    }
  }
  const index_t reached = count > 0 ? index_t{sequence.offsets(count)} : 0;
  if (reached == sequence.tokens()) return true;
  if (lane == 0) wrong.end.report(reached, sequence.tokens());
  return false;
}

/// The same of queries and keys, and whether the queries of each sequence are the last of its keys.
__device__ inline bool keys_hold(const packed_sequences& queries, const packed_sequences& keys,
                                 const sequence_misuse& wrong, const misuse& too_few) {
  if (!offsets_hold(queries, wrong) || !offsets_hold(keys, wrong)) return false;
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (index_t first = 0; first < queries.sequences(); first += 32) {
    const index_t s = min(first + lane, queries.sequences() - 1);
    const index_t asking = tokens_of(queries, s).count(), asked = tokens_of(keys, s).count();
    if (const unsigned breaches = __ballot_sync(all_lanes, asking > asked); breaches != 0) {
      if (lane == __ffs(static_cast<int>(breaches)) - 1) too_few.report(s, asking, asked);
      return false;
    }
  }
  return true;
}

namespace detail {

template <class Sequences>
__global__ void check_offsets_kernel(Sequences sequence, sequence_misuse wrong) {
  offsets_hold(sequence, wrong);
}

template <class Sequences>
__global__ void check_keys_kernel(Sequences queries, Sequences keys, sequence_misuse wrong, misuse too_few) {
  keys_hold(queries, keys, wrong, too_few);
}

}  // namespace detail

/// Reports, in the name of an operation, offsets that break the contract of packed_sequences.
template <class Ctx>
void check_offsets(Ctx& ctx, const char* name, const packed_sequences& sequence) {
  launch(name, ctx.stream, {.block = 32}, detail::check_offsets_kernel<packed_sequences>, sequence,
         sequence_misuse_of(ctx, name));
}
template <class Ctx>
misuse too_few_keys(Ctx& ctx, const char* name) {
  return misuse_of(ctx, "sequence {} has {} queries, and only {} keys", name);
}
/// The same of queries and keys, and sequences with more queries than keys.
template <class Ctx>
void check_keys(Ctx& ctx, const char* name, const packed_sequences& queries, const packed_sequences& keys) {
  launch(name, ctx.stream, {.block = 32}, detail::check_keys_kernel<packed_sequences>, queries, keys,
         sequence_misuse_of(ctx, name), too_few_keys(ctx, name));
}

}  // namespace dsv3::inline DSV3_ABI::cuda
