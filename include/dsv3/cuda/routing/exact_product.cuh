// SPDX-License-Identifier: MIT
// Products of matrices in the accumulator's own arithmetic, no matrix units: what the router's choice hangs
// on must not be rounded to fewer bits.
#pragma once

#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/linear/store.hpp>
#include <dsv3/tensor/view.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cuda {

/// A factor of a product: `rows` stand side by side, and the product sums over `depth`. Which of the two is
/// contiguous is the type's.
enum class contiguous { depth, rows };
template <class T, contiguous Along>
struct product_factor {
  const T* data;
  index_t stride;
  bool packs;  // four neighbours can be moved together

  explicit product_factor(const view<const T, 2>& matrix)
      : data(matrix.data()),
        stride(matrix.stride(0)),
        packs(takes_packs<4>(matrix.data(), matrix.stride(0))) {}
};

/// Where a product goes. A depth in several parts leaves one result for each part.
template <class T>
struct product_result {
  T* data;
  index_t stride, part_stride;
  store into;
  bool pairs;  // two neighbours from an even column on can be moved together

  product_result(T* place, index_t row_stride, index_t apart = 0, store how = store::write)
      : data(place),
        stride(row_stride),
        part_stride(apart),
        into(how),
        pairs(takes_packs<2>(place, row_stride) && apart % 2 == 0) {}
};

struct product_extents {
  index_t m, n, depth;
};

namespace detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// A block computes Extent x Extent results, each thread 8 x 8 of them, and takes the depth 16 at a time,
/// doubles 8.
template <class Acc, int Extent>
struct product_tile {
  static constexpr int extent = Extent, depth = sizeof(Acc) == 4 ? 16 : 8;
  static constexpr int threads_across = Extent / 8, threads = threads_across * threads_across;
  static constexpr int row = Extent + 4;  // in shared memory: keeps 16-byte alignment, halves conflicts
  static constexpr int blocks_per_processor = Extent == 128 ? 2 : sizeof(Acc) == 4 ? 6 : 3;
};

// ---- selection --------------------------------------------------------------------------------------------

inline index_t product_tiles(const product_extents& e, int extent) {
  return ceil_div(e.m, extent) * ceil_div(e.n, extent);
}
/// Large tiles read less; small ones where there would be too few, or where they would stay half empty.
template <class Acc>
bool takes_large_tiles(const product_extents& e) {
  return sizeof(Acc) == 4 && std::min(e.m, e.n) > 64 && product_tiles(e, 128) >= 16;
}

// ---- kernels ----------------------------------------------------------------------------------------------

/// One thread's share of the tiles of a factor, on its way from global to shared memory. A line is a row
/// where the depth is contiguous, else a step along the depth.
template <class Tile, class T, contiguous Along>
struct tile_share {
  static constexpr int packs = Tile::extent * Tile::depth / 4 / Tile::threads;
  static constexpr int across = (Along == contiguous::depth ? Tile::depth : Tile::extent) / 4;
  static constexpr int lines_apart = Tile::threads / across;  // of the thread's packs
  pack<T, 4> values[packs];
  const T* at;
  index_t stride;
  int lines_left, left;  // lines, and elements of a line, from the thread's first on
  bool whole;            // four neighbours can be moved together

  __device__ __forceinline__ tile_share(const product_factor<T, Along>& from, index_t first_row, index_t rows,
                                        index_t first, index_t end)
      : stride(from.stride), whole(from.packs) {
    const index_t line = first_line() + (Along == contiguous::depth ? first_row : first);
    const index_t inner = first_inner() + (Along == contiguous::depth ? first : first_row);
    at = from.data + line * stride + inner;
    lines_left = static_cast<int>((Along == contiguous::depth ? rows : end) - line);
    left = static_cast<int>((Along == contiguous::depth ? end : rows) - inner);
  }
  __device__ static int first_line() { return static_cast<int>(threadIdx.x) / across; }
  __device__ static int first_inner() { return static_cast<int>(threadIdx.x) % across * 4; }

  /// The next tile along the depth; zeros where the factor ends.
  __device__ __forceinline__ void fetch() {
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      const T* address = at + p * lines_apart * stride;
      const int count = p * lines_apart < lines_left ? left : 0;
      if (count >= 4 && whole) {
        values[p] = load_pack<4>(address);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) values[p][i] = i < count ? address[i] : T(0.0f);
      }
    }
    if constexpr (Along == contiguous::depth)
      at += Tile::depth, left -= Tile::depth;
    else
      at += Tile::depth * stride, lines_left -= Tile::depth;
  }
  template <class Acc>
  __device__ __forceinline__ void put(Acc* to) const {
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      const int line = p * lines_apart + first_line();
      pack<Acc, 4> wide;
#pragma unroll
      for (int i = 0; i < 4; ++i) wide[i] = Acc(values[p][i]);
      if constexpr (Along == contiguous::rows) {
        store_pack(to + line * Tile::row + first_inner(), wide);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) to[(first_inner() + i) * Tile::row + line] = wide[i];
      }
    }
  }
};

/// result[i, j] = Σ_d a[i, d] · b[j, d], summed in the order of d. blockIdx.y is the part of the depth.
template <class Tile, class Acc, class A, contiguous AlongA, class B, contiguous AlongB, class Out>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks_per_processor)
    exact_product_kernel(product_factor<A, AlongA> a, product_factor<B, AlongB> b, product_extents e,
                         index_t part_depth, product_result<Out> out) {
  constexpr int half = Tile::extent / 2, stage = Tile::depth * Tile::row;
  __shared__ alignas(32) Acc a_tile[2 * stage];
  __shared__ alignas(32) Acc b_tile[2 * stage];
  const index_t tiles_across = ceil_div(e.n, Tile::extent);
  const index_t first_m = blockIdx.x / tiles_across * Tile::extent;
  const index_t first_n = blockIdx.x % tiles_across * Tile::extent;
  const index_t begin = blockIdx.y * part_depth, end = min(begin + part_depth, e.depth);
  // A warp covers 4 x 8 threads, so that it reads few addresses of either tile.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps_across = Tile::threads_across / 8;
  const int row = (warp / warps_across * 4 + lane / 8) * 4, column = (warp % warps_across * 8 + lane % 8) * 4;

  Acc sums[8][8] = {};
  tile_share<Tile, A, AlongA> a_share(a, first_m, e.m, begin, end);
  tile_share<Tile, B, AlongB> b_share(b, first_n, e.n, begin, end);
  a_share.fetch(), b_share.fetch();
  int current = 0;
  for (index_t d = begin; d < end; d += Tile::depth) {
    a_share.put(a_tile + current * stage);
    b_share.put(b_tile + current * stage);
    __syncthreads();  // the other stage was read before this
    if (d + Tile::depth < end) a_share.fetch(), b_share.fetch();
#pragma unroll
    for (int k = 0; k < Tile::depth; ++k) {
      const Acc* a_row = a_tile + current * stage + k * Tile::row + row;
      const Acc* b_row = b_tile + current * stage + k * Tile::row + column;
      const pack<Acc, 4> a_part[2] = {load_pack<4>(a_row), load_pack<4>(a_row + half)};
      const pack<Acc, 4> b_part[2] = {load_pack<4>(b_row), load_pack<4>(b_row + half)};
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[i][j] = fma(a_part[i / 4][i % 4], b_part[j / 4][j % 4], sums[i][j]);
    }
    current ^= 1;
  }

#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const index_t m = first_m + i / 4 * half + row + i % 4;
    if (m >= e.m) continue;
    Out* to = out.data + blockIdx.y * out.part_stride + m * out.stride;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const index_t n = first_n + j / 4 * half + column + j % 4;
      if (n < e.n) to[n] = Out(out.into == store::add ? Acc(to[n]) + sums[i][j] : sums[i][j]);
    }
  }
}

/// y += Σ parts, in order.
template <class Acc, class Out>
__global__ void add_product_parts_kernel(const Acc* parts, index_t count, index_t rows, index_t columns,
                                         Out* y, index_t stride, store into) {
  const index_t all = rows * columns, step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += step) {
    Acc sum = 0;
#pragma unroll 4
    for (index_t part = 0; part < count; ++part) sum += parts[part * all + i];
    Out& to = y[i / columns * stride + i % columns];
    to = Out(into == store::add ? Acc(to) + sum : sum);
  }
}

}  // namespace detail

// ---- launch -----------------------------------------------------------------------------------------------

/// Into how many parts to cut the depth, so that there is work for a large GPU: depends on nothing but the
/// extents.
template <class Acc>
index_t product_parts(const product_extents& e) {
  const bool large = detail::takes_large_tiles<Acc>(e);
  const index_t tiles = detail::product_tiles(e, large ? 128 : 64), wanted = large ? 264 : 792;
  return std::clamp<index_t>(wanted / std::max<index_t>(tiles, 1), 1,
                             std::max<index_t>(e.depth / (large ? 512 : 128), 1));
}

template <class Acc, class A, contiguous AlongA, class B, contiguous AlongB, class Out>
void exact_product(const char* name, cudaStream_t stream, const product_factor<A, AlongA>& a,
                   const product_factor<B, AlongB>& b, const product_extents& e, index_t parts,
                   const product_result<Out>& out) {
  const auto start = [&]<class Tile>(Tile) {
    const index_t part_depth = round_up(ceil_div(e.depth, parts), Tile::depth);
    launch(name, stream,
           {.grid = {static_cast<unsigned>(detail::product_tiles(e, Tile::extent)),
                     static_cast<unsigned>(parts)},
            .block = Tile::threads},
           detail::exact_product_kernel<Tile, Acc, A, AlongA, B, AlongB, Out>, a, b, e, part_depth, out);
  };
  if constexpr (sizeof(Acc) == 4)
    if (detail::takes_large_tiles<Acc>(e)) return start(detail::product_tile<Acc, 128>{});
  start(detail::product_tile<Acc, 64>{});
}

/// y = Σ parts, or +=; contiguous [parts, rows, columns].
template <class Acc, class Out>
void add_parts(const char* name, cudaStream_t stream, const view<Acc, 3>& parts, const view<Out, 2>& y,
               store into) {
  launch(name, stream, {.grid = grid_for(y.size(), 256)}, detail::add_product_parts_kernel<Acc, Out>,
         parts.data(), parts.extent(0), y.extent(0), y.extent(1), y.data(), y.stride(0), into);
}

}  // namespace dsv3::inline DSV3_ABI::cuda
