// SPDX-License-Identifier: MIT
// Rows of groups cut into tiles that never hold rows of two groups, by counts that only the GPU knows.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/tensor/ragged.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::cuda::detail {

/// Where rows of a ragged_view begin, and how many of each group are live.
struct group_rows {
  const std::int32_t *offsets, *counts;
  int groups;
};

template <class T>
group_rows groups_of(const ragged_view<T>& x) {
  return {x.offsets.data(), x.counts.data(), static_cast<int>(x.groups())};
}

/// More tiles of `rows` rows than groups that share `capacity` rows can have.
inline index_t most_tiles(index_t capacity, index_t groups, index_t rows) { return capacity / rows + groups; }

/// Tile `row` of a group counted in rows; no group: there is no such tile.
struct group_tile {
  int group, row;
};

/// The tile with number `tile`, counted through the groups in order, `Rows` rows each; found by every warp of
/// a block for itself.
template <int Rows>
__device__ group_tile find_tile(const group_rows& all, int tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;
  for (int first = 0; first < all.groups; first += 32) {
    const int count = first + lane < all.groups ? all.counts[first + lane] : 0;
    const int own = (count + Rows - 1) / Rows;
    int upto = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(all_lanes, upto, step);
      if (lane >= step) upto += other;
    }
    const unsigned hits = __ballot_sync(all_lanes, tile < before + upto);
    if (hits != 0) {
      const int hit = __ffs(static_cast<int>(hits)) - 1;
      const int start = before + __shfl_sync(all_lanes, upto - own, hit);
      return {first + hit, (tile - start) * Rows};
    }
    before += __shfl_sync(all_lanes, upto, 31);
  }
  return {-1, 0};
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
