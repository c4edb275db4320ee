// SPDX-License-Identifier: MIT
// Products of floats by the matrix units for bf16, no less exact than in float: a float is the sum of three
// bf16, its planes, and the product of matrices the sum of the products of their planes.
#pragma once

#include <dsv3/cuda/device/mma.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/routing/exact_product.cuh>
#include <dsv3/number/bf16.hpp>

#include <algorithm>
#include <cmath>

namespace dsv3::inline DSV3_ABI::cuda {

/// The planes of a factor, the upper bits first. Rows start at multiples of 16 bytes, and so many elements
/// are there to be read; a matrix of bf16 is its own only plane.
struct product_planes {
  const bf16* data;
  index_t stride, plane_stride = 0;
};

namespace detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// Results of a block, Rows x Columns, by eight warps that have 32 columns each. A stage is 32 deep, so that
/// three of four planes fit the shared memory of any GPU. Of an operand's plane it holds swizzled lines of
/// 128 bytes: where the depth is contiguous, two rows a line; else panels of 32 lines along the depth, 64
/// rows wide.
template <int Rows, int Columns>
struct split_tile {
  static constexpr int rows = Rows, columns = Columns, depth = 32, threads = 256, stages = 3;
  static constexpr int warps_across = Columns / 32, warp_rows = Rows * warps_across / 8;
  static constexpr int blocks_per_processor = warp_rows > 32 ? 1 : 2;
  static constexpr int row_bytes = depth * 2, panel_bytes = 64 * row_bytes;
  // The matrix units cut off what falls below their sums' last bits: after so many stages those sums are
  // added to sums that round.
  static constexpr int stages_per_sum = 4;
};

// ---- kernels ----------------------------------------------------------------------------------------------

/// Eight neighbours of a row; zeros beyond its columns.
__device__ __forceinline__ pack<float, 8> load_eight(const float* row, index_t column, index_t columns,
                                                     bool packs) {
  pack<float, 8> values;
  if (packs && column + 8 <= columns) {
    const auto first = load_pack<4>(row + column), second = load_pack<4>(row + column + 4);
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = first[j], values[j + 4] = second[j];
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = column + j < columns ? row[column + j] : 0.0f;
  }
  return values;
}
/// Cuts numbers into planes, whose sum they are.
template <int Planes>
__device__ __forceinline__ void split(const pack<float, 8>& values, pack<bf16, 8> (&plane)[Planes]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float left = values[j];
#pragma unroll
    for (int p = 0; p < Planes; ++p) {
      plane[p][j] = bf16(left);
      const float taken = plane[p][j];
      left = isfinite(taken) ? left - taken : 0.0f;  // what is infinite is so once
    }
  }
}

/// planes[p, row, column] so that their sum over p is x; zeros up to `padded` columns, a multiple of 8.
template <int Planes, class T>
__global__ void split_planes_kernel(const T* x, index_t stride, bool packs, index_t rows, index_t columns,
                                    index_t padded, bf16* planes) {
  const index_t all = rows * padded / 8, step = static_cast<index_t>(gridDim.x) * blockDim.x;
  const auto across = static_cast<unsigned>(padded / 8);
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += step) {
    const index_t row = i / across, column = (i - row * across) * 8;
    pack<bf16, 8> plane[Planes];
    split(load_eight(x + row * stride, column, columns, packs), plane);
#pragma unroll
    for (int p = 0; p < Planes; ++p) store_pack(planes + (p * all + i) * 8, plane[p]);
  }
}

/// Begins copying one stage of one plane of a factor: `rows` of it from first_row, depth first .. end; zeros
/// elsewhere. All three limits are multiples of 8 along what is contiguous.
template <class Tile, int Extent, contiguous Along>
__device__ __forceinline__ void copy_plane(std::uint32_t to, const bf16* from, index_t stride,
                                           index_t first_row, index_t rows, index_t first, index_t end) {
#pragma unroll
  for (int i = 0; i < Extent * Tile::row_bytes / 16 / Tile::threads; ++i) {
    const int chunk = i * Tile::threads + static_cast<int>(threadIdx.x);
    if constexpr (Along == contiguous::depth) {
      const int row = chunk / 4, column = chunk % 4;
      const bool wanted = first_row + row < rows && first + column * 8 < end;
      copy_async(to + swizzle_128(row / 2, row % 2 * 64 + column * 16),
                 wanted ? from + (first_row + row) * stride + first + column * 8 : from, wanted);
    } else {
      const int k = chunk / (Extent / 8), panel = chunk % (Extent / 8) / 8, column = chunk % 8;
      const index_t row = first_row + panel * 64 + column * 8;
      const bool wanted = row < rows && first + k < end;
      copy_async(to + panel * Tile::panel_bytes + swizzle_128(k, column * 16),
                 wanted ? from + (first + k) * stride + row : from, wanted);
    }
  }
}

/// A 16 x 16 block of a plane in shared memory: rows from `row`, depth from `depth`, both multiples of 16.
/// Along the depth its quarters come as an A, or as parts 0 and 2, 1 and 3 of two B. Along the rows they come
/// as parts 0, 2, 1, 3 of an A, or as parts 0 and 1, 2 and 3 of two B.
template <class Tile, contiguous Along>
__device__ __forceinline__ void load_block(std::uint32_t (&part)[4], std::uint32_t plane, int row,
                                           int depth) {
  const int lane = threadIdx.x % 32;
  if constexpr (Along == contiguous::depth) {
    const int line = row + tile_row(lane);
    load_matrices(part, plane + swizzle_128(line / 2, line % 2 * 64 + (depth + tile_column(lane)) * 2));
  } else {
    load_transposed(part, plane + row / 64 * Tile::panel_bytes +
                              swizzle_128(depth + tile_row(lane), (row % 64 + tile_column(lane)) * 2));
  }
}

/// result[i, j] = Σ_d a[i, d] · b[j, d]. Products of planes whose bits lie below the last plane's are left
/// out. blockIdx.y is the part of the depth.
template <class Tile, int PlanesA, contiguous AlongA, int PlanesB, contiguous AlongB, class Out>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks_per_processor)
    split_product_kernel(product_planes a, product_planes b, product_extents e, index_t part_depth,
                         product_result<Out> out) {
  constexpr int a_bytes = Tile::rows * Tile::row_bytes, b_bytes = Tile::columns * Tile::row_bytes;
  constexpr int stage_bytes = PlanesA * a_bytes + PlanesB * b_bytes, blocks = Tile::warp_rows / 16;
  constexpr int order = PlanesA > PlanesB ? PlanesA : PlanesB;
  const index_t tiles_across = ceil_div(e.n, Tile::columns);
  const index_t first_m = blockIdx.x / tiles_across * Tile::rows;
  const index_t first_n = blockIdx.x % tiles_across * Tile::columns;
  const index_t begin = blockIdx.y * part_depth, end = min(begin + part_depth, e.depth);
  const auto steps = static_cast<int>(end > begin ? ceil_div(end - begin, Tile::depth) : 0);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / Tile::warps_across * Tile::warp_rows, column = warp % Tile::warps_across * 32;
  const std::uint32_t memory = shared_address(dynamic_shared());
  const index_t rows_a = AlongA == contiguous::depth ? e.m : round_up(e.m, 8);
  const index_t rows_b = AlongB == contiguous::depth ? e.n : round_up(e.n, 8);

  const auto copy = [&](int step) {
    if (step < steps) {
      const std::uint32_t to = memory + step % Tile::stages * stage_bytes;
      const index_t first = begin + static_cast<index_t>(step) * Tile::depth;
#pragma unroll
      for (int p = 0; p < PlanesA; ++p)
        copy_plane<Tile, Tile::rows, AlongA>(to + p * a_bytes, a.data + p * a.plane_stride, a.stride, first_m,
                                             rows_a, first, end);
#pragma unroll
      for (int p = 0; p < PlanesB; ++p)
        copy_plane<Tile, Tile::columns, AlongB>(to + PlanesA * a_bytes + p * b_bytes,
                                                b.data + p * b.plane_stride, b.stride, first_n, rows_b, first,
                                                end);
    }
    commit_copies();
  };

  // 16-row blocks, 8-column blocks, as mma lays them out
  float total[blocks][4][4] = {}, sums[blocks][4][4] = {};
  const auto promote = [&] {
#pragma unroll
    for (int i = 0; i < blocks; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int v = 0; v < 4; ++v) total[i][j][v] += sums[i][j][v], sums[i][j][v] = 0;
  };
#pragma unroll
  for (int step = 0; step < Tile::stages - 1; ++step) copy(step);
  for (int step = 0; step < steps; ++step) {
    wait_copies<Tile::stages - 2>();
    __syncthreads();  // this stage has arrived for everyone, and everyone is done with the one before
    copy(step + Tile::stages - 1);
    const std::uint32_t from = memory + step % Tile::stages * stage_bytes;
#pragma unroll
    for (int k = 0; k < Tile::depth; k += 16) {
      std::uint32_t a_part[PlanesA][blocks][4];
#pragma unroll
      for (int p = 0; p < PlanesA; ++p)
#pragma unroll
        for (int i = 0; i < blocks; ++i) {
          load_block<Tile, AlongA>(a_part[p][i], from + p * a_bytes, row + 16 * i, k);
          if constexpr (AlongA == contiguous::rows) {
            const std::uint32_t second = a_part[p][i][1];
            a_part[p][i][1] = a_part[p][i][2], a_part[p][i][2] = second;
          }
        }
#pragma unroll
      for (int q = PlanesB - 1; q >= 0; --q)  // the small numbers first
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
          constexpr int next = AlongB == contiguous::depth ? 2 : 1, other = 3 - next;
          std::uint32_t b_part[4];
          load_block<Tile, AlongB>(b_part, from + PlanesA * a_bytes + q * b_bytes, column + 8 * j, k);
#pragma unroll
          for (int p = 0; p < PlanesA; ++p)
            if (p + q < order)
#pragma unroll
              for (int i = 0; i < blocks; ++i) {
                mma(sums[i][j], a_part[p][i], b_part[0], b_part[next]);
                mma(sums[i][j + 1], a_part[p][i], b_part[other], b_part[3]);
              }
        }
    }
    if (step % Tile::stages_per_sum == Tile::stages_per_sum - 1) promote();
  }
  promote();
  wait_copies<0>();

  // visit(pair of sums, its place, how many of the two exist) for all neighbouring sums.
  const auto each_pair = [&](auto&& visit) {
#pragma unroll
    for (int i = 0; i < blocks; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const index_t m = first_m + row + 16 * i + fragment_row(lane) + 8 * half;
          const index_t n = first_n + column + 8 * j + fragment_column(lane);
          if (m < e.m && n < e.n)
            visit(&total[i][j][2 * half], out.data + blockIdx.y * out.part_stride + m * out.stride + n,
                  e.n - n);
        }
  };
  // All former content is read before anything is written, so that the loads are under way together.
  if (out.into == store::add)
    each_pair([&](float* sum, const Out* from, index_t count) {
      if (count > 1 && out.pairs) {
        const auto former = load_pack<2>(from);
        sum[0] += float(former[0]), sum[1] += float(former[1]);
      } else {
        sum[0] += float(from[0]);
        if (count > 1) sum[1] += float(from[1]);
      }
    });
  each_pair([&](const float* sum, Out* to, index_t count) {
    if (count > 1 && out.pairs) {
      store_pack(to, pack<Out, 2>{Out(sum[0]), Out(sum[1])});
    } else {
      to[0] = Out(sum[0]);
      if (count > 1) to[1] = Out(sum[1]);
    }
  });
}

}  // namespace detail

// ---- launch -----------------------------------------------------------------------------------------------

/// Elements of so many planes of a matrix.
inline index_t plane_elements(index_t planes, index_t rows, index_t columns) {
  return planes * rows * round_up(columns, 8);
}
/// Cuts a matrix into planes, in plane_elements of memory.
template <int Planes>
product_planes split_planes(const char* name, cudaStream_t stream, const view<const float, 2>& x,
                            bf16* memory) {
  const index_t padded = round_up(x.extent(1), 8);
  launch(name, stream, {.grid = grid_for(x.extent(0) * padded, 8 * 256)},
         detail::split_planes_kernel<Planes, float>, x.data(), x.stride(0),
         takes_packs<4>(x.data(), x.stride(0)), x.extent(0), x.extent(1), padded, memory);
  return {memory, padded, x.extent(0) * padded};
}

/// A product of planes. SmallTile is for results no wider, or no higher, than that.
template <int PlanesA, contiguous AlongA, int PlanesB, contiguous AlongB,
          class SmallTile = detail::split_tile<128, 128>>
struct split_product {
  /// Into how many parts to cut the depth, so that a large GPU is filled; depends on nothing but the extents.
  static index_t parts(const product_extents& e) {
    const auto parts_of = [&]<class Tile>(Tile) {
      const index_t wanted = 132 * Tile::blocks_per_processor;
      return std::clamp<index_t>(wanted / std::max<index_t>(tiles<Tile>(e), 1), 1,
                                 std::max<index_t>(e.depth / 128, 1));
    };
    return takes_small(e) ? parts_of(SmallTile{}) : parts_of(large_tile{});
  }

  template <class Out>
  static void run(const char* name, cudaStream_t stream, const product_planes& a, const product_planes& b,
                  const product_extents& e, index_t parts, const product_result<Out>& out) {
    const auto start = [&]<class Tile>(Tile) {
      launch(name, stream,
             {.grid = {static_cast<unsigned>(tiles<Tile>(e)), static_cast<unsigned>(parts)},
              .block = Tile::threads,
              .shared_bytes = std::size_t{Tile::stages} * Tile::row_bytes *
                              (PlanesA * Tile::rows + PlanesB * Tile::columns)},
             detail::split_product_kernel<Tile, PlanesA, AlongA, PlanesB, AlongB, Out>, a, b, e,
             round_up(ceil_div(e.depth, parts), Tile::depth), out);
    };
    takes_small(e) ? start(SmallTile{}) : start(large_tile{});
  }

 private:
  using large_tile = detail::split_tile<128, 128>;

  static bool takes_small(const product_extents& e) {
    return (SmallTile::rows < large_tile::rows && e.m <= SmallTile::rows) ||
           (SmallTile::columns < large_tile::columns && e.n <= SmallTile::columns);
  }
  template <class Tile>
  static index_t tiles(const product_extents& e) {
    return ceil_div(e.m, Tile::rows) * ceil_div(e.n, Tile::columns);
  }
};

}  // namespace dsv3::inline DSV3_ABI::cuda
