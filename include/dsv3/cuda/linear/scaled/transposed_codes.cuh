// SPDX-License-Identifier: MIT
// Matrices of 8-bit codes turned over, for products whose sums run down a weight's rows: a weight's tiles are
// square, so its scales stay as they are.
#pragma once

#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/linear/scaled/product.cuh>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// to[g][j][i] = from[g][i][j] of the groups that have rows; rows of `to` lie `to_stride` apart, a multiple
/// of 16, and end in zeros. A block turns 128 x 128 codes: it reads rows, and each thread gathers sixteen
/// neighbours of four columns.
template <class Element>
__global__ __launch_bounds__(256) void transpose_codes_kernel(view<const Element, 3> from, Element* to,
                                                              index_t to_stride, row_groups groups,
                                                              index_t group_rows) {
  __shared__ __align__(16) std::uint32_t words[128][32];  // four codes each
  const index_t g = blockIdx.z, first_row = static_cast<index_t>(blockIdx.y) * 128,
                first_column = static_cast<index_t>(blockIdx.x) * 128;
  if (groups.count(g, group_rows) == 0) return;
  const view<const Element, 2> matrix = from[g];
  const Element* start = matrix.data() + first_row * matrix.stride(0) + first_column;
  code_tile codes;
  codes.load(start, matrix.stride(0), matrix.extent(0) - first_row, matrix.extent(1) - first_column,
             codes_in_packs(start, matrix.stride(0)));
  // A row's stretches of sixteen change places by the row's stretch, so that gathering meets all banks.
#pragma unroll
  for (int i = 0; i < code_tile::passes; ++i) {
    const int row = code_tile::row(i), stretch = code_tile::column() / 16 ^ row / 16;
    *reinterpret_cast<uint4*>(&words[row][stretch * 4]) = codes.codes[i];
  }
  __syncthreads();

  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int along = lane % 8 * 16, column = warp * 16 + lane / 8 * 4;  // of the tile
  std::uint32_t turned[4][4];                                          // by column, then along it
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    std::uint32_t row[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) row[r] = words[along + i * 4 + r][(warp ^ lane % 8) * 4 + lane / 8];
    const std::uint32_t low01 = __byte_perm(row[0], row[1], 0x5140),
                        low23 = __byte_perm(row[2], row[3], 0x5140);
    const std::uint32_t high01 = __byte_perm(row[0], row[1], 0x7362),
                        high23 = __byte_perm(row[2], row[3], 0x7362);
    turned[0][i] = __byte_perm(low01, low23, 0x5410), turned[1][i] = __byte_perm(low01, low23, 0x7632);
    turned[2][i] = __byte_perm(high01, high23, 0x5410), turned[3][i] = __byte_perm(high01, high23, 0x7632);
  }
  if (first_row + along >= to_stride) return;
#pragma unroll
  for (int c = 0; c < 4; ++c)
    if (first_column + column + c < matrix.extent(1))
      *reinterpret_cast<uint4*>(to + (g * matrix.extent(1) + first_column + column + c) * to_stride +
                                first_row + along) =
          uint4{turned[c][0], turned[c][1], turned[c][2], turned[c][3]};
}

// ---- launch -----------------------------------------------------------------------------------------------

/// The codes of [matrices, rows, columns] as [matrices, columns, rows] whose rows a copy engine takes.
template <class Element>
view<Element, 3> transposed_room(scratch_arena& arena, const view<const Element, 3>& from) {
  const index_t stride = round_up(from.extent(1), 16), step = from.extent(2) * stride;
  const index_t extents[] = {from.extent(0), from.extent(2), from.extent(1)}, strides[] = {step, stride, 1};
  return {arena.take<Element>(from.extent(0) * step), extents, strides};
}

/// Of the groups that have rows; the others' matrices stay what they are.
template <class Element>
void launch_transpose(const char* name, cudaStream_t stream, const view<const Element, 3>& from,
                      const view<Element, 3>& to, const row_groups& groups, index_t group_rows) {
  const launch_shape shape{.grid = dim3(static_cast<unsigned>(ceil_div(from.extent(2), 128)),
                                        static_cast<unsigned>(ceil_div(from.extent(1), 128)),
                                        static_cast<unsigned>(from.extent(0)))};
  launch(name, stream, shape, transpose_codes_kernel<Element>, from, to.data(), to.stride(1), groups,
         group_rows);
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
