// SPDX-License-Identifier: MIT
// How operations on every element share a matrix among threads, be it many short rows or one long one.
#pragma once

#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/launch.cuh>

namespace dsv3::inline DSV3_ABI::cuda {

/// A gapless matrix as one row, so that the length of its rows does not matter.
template <class T>
view<T, 2> one_row(const view<T, 2>& matrix) {
  return view<T, 2>(matrix.data(), index_t{1}, matrix.size());
}

namespace detail {

/// Every element of `rows` x `columns` by way of `map`, which has
///
///     static constexpr int packs                 packs that a thread reads before it writes the first
///     bool takes(row, column)                    whether the row is touched at all
///     auto load<Width>(row, column)              all that Width results from `column` on are made of
///     void store<Width>(row, column, loaded)     makes and writes them
///
/// Packs whose reading and writing overlap in memory must be the same pack.
template <int Width, class Map>
__global__ void __launch_bounds__(256) segments_kernel(const Map map, index_t rows, index_t columns) {
  const index_t step = static_cast<index_t>(blockDim.x) * Width;
  const index_t first = blockIdx.x * step * Map::packs + threadIdx.x * Width;
  const index_t rows_at_once = static_cast<index_t>(gridDim.y) * blockDim.y;
  for (index_t row = static_cast<index_t>(blockIdx.y) * blockDim.y + threadIdx.y; row < rows;
       row += rows_at_once) {
    if (!map.takes(row, first)) continue;
    decltype(map.template load<Width>(row, first)) loaded[Map::packs];
#pragma unroll
    for (int p = 0; p < Map::packs; ++p)
      if (const index_t at = first + p * step; at + Width <= columns)
        loaded[p] = map.template load<Width>(row, at);
#pragma unroll
    for (int p = 0; p < Map::packs; ++p)
      if (const index_t at = first + p * step; at + Width <= columns)
        map.template store<Width>(row, at, loaded[p]);
    if (blockIdx.x == gridDim.x - 1)  // what packs leave over
      for (index_t i = columns - columns % Width + threadIdx.x; i < columns; i += blockDim.x)
        map.template store<1>(row, i, map.template load<1>(row, i));
  }
}

}  // namespace detail

/// Starts `map` over a matrix; Width packs of all its tensors must be possible.
template <int Width, class Map>
void launch_segments(const char* name, cudaStream_t stream, const Map& map, index_t rows, index_t columns) {
  const index_t width = ceil_div(columns, Width);
  unsigned across = 1;
  while (across < 256 && across < width) across *= 2;
  const unsigned down = 256 / across;
  launch(name, stream,
         {.grid = {static_cast<unsigned>(ceil_div(width, across * Map::packs)),
                   static_cast<unsigned>(std::min<index_t>(ceil_div(rows, down), 65535))},
          .block = {across, down}},
         detail::segments_kernel<Width, Map>, map, rows, columns);
}

}  // namespace dsv3::inline DSV3_ABI::cuda
