// SPDX-License-Identifier: MIT
// Which tiles of a product, or of one per group, a pair of blocks makes one after another.
#pragma once

#include <dsv3/cuda/device/mbarrier.cuh>
#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/linear/scaled/problem.cuh>

namespace dsv3::inline DSV3_ABI::cuda::detail {

/// A tile of c, in its group.
struct walked_tile {
  int group, row, column;
  int first;  // row, or term, that the group begins with
  int rows;   // live rows of c from `row` on
  int terms;  // of the sums
};

#if DSV3_SM90A

/// Every warp of the two blocks of a cluster walks for itself and finds the same, but for the column: the
/// blocks' tiles stand side by side. Tiles are counted group by group; in a group they are taken in bands of
/// rows, columns after columns, so that what runs at one time shares rows of both operands.
template <grouped_by By, int Rows, int Columns, class Problem>
class tile_walk {
 public:
  __device__ explicit tile_walk(const Problem& all) : all_(all), index_(static_cast<int>(blockIdx.x / 2)) {}

  /// The next tile; false after the last.
  __device__ bool next(walked_tile& tile) {
    if (all_.groups.all()) {
      if (index_ >= row_tiles(m()) * pairs()) return false;
      place(tile, 0, index_, 0, By == grouped_by::rows ? m() : k());
      return true;
    }
    const int lane = static_cast<int>(threadIdx.x) % 32, number = static_cast<int>(all_.groups.groups());
    for (; base_ < number; base_ += 32) {
      const int count = base_ + lane < number ? all_.groups.counts.data()[base_ + lane] : 0;
      // Groups of no terms have something to store only where it is written.
      const bool stores = count > 0 || (all_.into == store::write && base_ + lane < number);
      const int own = (By == grouped_by::rows ? row_tiles(count) : stores ? row_tiles(m()) : 0) * pairs();
      int upto = own;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(all_lanes, upto, step);
        if (lane >= step) upto += other;
      }
      const unsigned hits = __ballot_sync(all_lanes, index_ < before_ + upto);
      if (hits != 0) {
        const int hit = __ffs(static_cast<int>(hits)) - 1;
        const int start = before_ + __shfl_sync(all_lanes, upto - own, hit);
        place(tile, base_ + hit, index_ - start, all_.groups.offsets.data()[base_ + hit],
              __shfl_sync(all_lanes, count, hit));
        return true;
      }
      before_ += __shfl_sync(all_lanes, upto, 31);
    }
    return false;
  }

 private:
  static constexpr int band = 2048 / Rows;

  __device__ static int row_tiles(int rows) { return (rows + Rows - 1) / Rows; }

  // Tile `at` of a group, which begins at `first` and has `count` rows or terms.
  __device__ void place(walked_tile& tile, int group, int at, int first, int count) {
    const int rows = By == grouped_by::rows ? count : m(), down = row_tiles(rows);
    const int which = at / (band * pairs()), inside = at - which * band * pairs();
    const int height = min(band, down - which * band);
    tile.group = group, tile.first = first;
    tile.row = (which * band + inside % height) * Rows;
    tile.column = (inside / height * 2 + static_cast<int>(cluster_rank())) * Columns;
    tile.rows = rows - tile.row;
    tile.terms = By == grouped_by::rows ? k() : count;
    index_ += static_cast<int>(gridDim.x / 2);
  }

  // Read anew each time, as registers are few.
  __device__ int m() const { return static_cast<int>(all_.m); }
  __device__ int k() const { return static_cast<int>(all_.k); }
  __device__ int pairs() const { return (static_cast<int>(all_.n) + 2 * Columns - 1) / (2 * Columns); }

  const Problem& all_;
  int index_;                  // of the pair of tiles that comes next
  int base_ = 0, before_ = 0;  // groups, and pairs of tiles, that are behind
};

#endif

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
