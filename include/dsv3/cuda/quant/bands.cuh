// SPDX-License-Identifier: MIT
// Bands of up to 128 rows of one group, found by the blocks that work on them; magnitudes over the lanes of a
// tile.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/quant/numbers.cuh>
#include <dsv3/tensor/ragged.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cuda {

/// Live rows [begin, end) of one group; `tile` is their number among the tiles along the rows.
struct row_band {
  index_t begin = 0, end = 0, tile = 0;
};

/// The band of tile `number` (tensor/ragged.hpp says how they are numbered); without rows where there is
/// none. For whole warps: their lanes look at 32 groups at a time.
__device__ inline row_band band_of(const row_groups& groups, index_t rows, index_t number) {
  index_t group = 0;  // the last group whose first tile is not beyond `number` is one of `span` from here
  for (index_t span = groups.groups(); span > 1;) {
    const index_t step = (span + 31) / 32, ahead = threadIdx.x % 32 * step;
    const bool before = ahead < span && groups.first_tile(group + ahead) <= number;
    const index_t passed = max(__popc(__ballot_sync(all_lanes, before)) - 1, 0) * step;
    group += passed;
    span = min(step, span - passed);
  }
  const index_t first = groups.first(group), last = first + groups.count(group, rows);
  const index_t begin = first + 128 * (number - groups.first_tile(group));
  if (begin < first || begin >= last) return {};
  return {begin, min(begin + 128, last), number};
}

// ---- magnitudes -------------------------------------------------------------------------------------------

/// The larger of a magnitude and another number's. A NaN does not count: it must not decide about the scale
/// of its neighbours.
__device__ __forceinline__ float larger_magnitude(float magnitude, float x) {
  return fmaxf(magnitude, fabsf(x));
}
template <int Count>
__device__ __forceinline__ float largest_magnitude(const float (&x)[Count]) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < Count; ++i) largest = larger_magnitude(largest, x[i]);
  return largest;
}

/// The largest of each of `Count` magnitudes over the lanes of a tile: lane l gets that of number l % Count.
/// Lanes exchange halves of what they hold until they hold one.
template <int Count, int Lanes = tile_lanes>
__device__ __forceinline__ float largest_over_lanes(float (&magnitudes)[Count]) {
  const int lane = threadIdx.x % Lanes;
#pragma unroll
  for (int half = Count / 2; half > 0; half /= 2) {
    const bool upper = (lane & half) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float mine = upper ? magnitudes[i + half] : magnitudes[i];
      const float theirs = upper ? magnitudes[i] : magnitudes[i + half];
      magnitudes[i] = fmaxf(mine, __shfl_xor_sync(all_lanes, theirs, half));
    }
  }
  float largest = magnitudes[0];
#pragma unroll
  for (int step = Count; step < Lanes; step *= 2)
    largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, step));
  return largest;
}

/// Blocks along y of a kernel that walks on by the whole grid over `count` things.
inline unsigned grid_of(index_t count) { return static_cast<unsigned>(std::min<index_t>(count, 65535)); }

}  // namespace dsv3::inline DSV3_ABI::cuda
