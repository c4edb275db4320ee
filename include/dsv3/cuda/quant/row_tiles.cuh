// SPDX-License-Identifier: MIT
// Tiles of one row on the GPU: from numbers that anything may compute to codes that may go anywhere, and
// back.
#pragma once

#include <dsv3/cuda/quant/bands.cuh>
#include <dsv3/cuda/quant/numbers.cuh>
#include <dsv3/tensor/scaled.hpp>

#include <limits>

namespace dsv3::inline DSV3_ABI {

namespace cuda {

/// Narrow values of 8 bits in rows, and a scale for each 128 of a row.
template <class Element>
struct code_rows {
  using element = Element;
  static constexpr int tiles_across = 1;
  view<Element, 2> values;
  view<float, 2, strided> scales;
  bool packs;

  code_rows(const view<Element, 2>& codes, const view<float, 2, strided>& scales)
      : values(codes), scales(scales), packs(takes_packs<lane_numbers>(codes)) {}

  __device__ __forceinline__ void put(index_t row, index_t column, index_t live,
                                      const pack<std::uint32_t, 2>& codes) const {
    if (live > 0) store_bytes(&values(row, column), codes, live, packs);
  }
  __device__ __forceinline__ void put(index_t row, index_t column, index_t live, const float (&x)[8]) const {
    put(row, column, live, codes_of<Element>(x));
  }
  __device__ __forceinline__ void put_scale(index_t row, index_t tile, float scale) const {
    scales(row, tile) = scale;
  }
};

/// Plain numbers in rows.
template <class To>
struct number_rows {
  view<To, 2> y;
  bool packs;

  explicit number_rows(const view<To, 2>& rows)
      : y(rows), packs(takes_packs<(sizeof(To) > 4 ? 4 : lane_numbers)>(rows)) {}

  template <class Numbers>
  __device__ __forceinline__ void put(index_t row, index_t column, index_t live, const Numbers& x) const {
    if (live <= 0) return;
    To* to = &y(row, column);
    const bool odd = threadIdx.x % 2 != 0;
    if (sizeof(To) == sizeof(float) && packs && live + (odd ? lane_numbers : 0) >= 2 * lane_numbers)
      put_pair(to, x, odd);
    else
      store_numbers(to, x, live, packs);
  }

 private:
  // Two lanes' rows of floats, 16 of them, by two instructions that write 32 gapless bytes each.
  template <class Numbers>
  __device__ __forceinline__ static void put_pair(To* to, const Numbers& x, bool odd) {
    const unsigned both = 3u << (threadIdx.x % 32 & ~1u);
    pack<To, 4> own, other;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const To low = To(x[j]), high = To(x[j + 4]);
      own[j] = odd ? high : low;
      other[j] = __shfl_xor_sync(both, odd ? low : high, 1);
    }
    store_pack(odd ? to - 4 : to, odd ? other : own);
    store_pack(odd ? to + 4 : to + 8, odd ? own : other);
  }
};

/// Eight codes of 8 bits with the scale that they share: the values are made where they are asked for.
template <class Element>
struct scaled_codes {
  pack<std::uint32_t, 2> codes;
  float scale;

  __device__ __forceinline__ float operator[](int i) const {
    float two[2];
    values_of_two<Element>(codes[i / 4] >> (16 * (i / 2 % 2)), two[0], two[1]);
    return __fmul_rn(two[i % 2], scale);
  }
  /// Numbers 2 i and 2 i + 1: a conversion makes two.
  __device__ __forceinline__ void two(int i, float& first, float& second) const {
    values_of_two<Element>(codes[i / 2] >> (16 * (i % 2)), first, second);
    first = __fmul_rn(first, scale), second = __fmul_rn(second, scale);
  }
  /// All of them.
  __device__ __forceinline__ void all(float (&x)[lane_numbers]) const {
    values_of<Element>(codes, x);
#pragma unroll
    for (int j = 0; j < lane_numbers; ++j) x[j] = __fmul_rn(x[j], scale);
  }
  __device__ __forceinline__ void stay_packed() {
#pragma unroll
    for (int i = 0; i < 2; ++i) asm volatile("" : "+r"(codes[i]));
  }
};

/// The numbers that codes of 8 bits stand for, whatever their tiles.
template <class Element, class Tile>
struct stored_tiles {
  static constexpr bool own_scales = Tile::columns == 1;
  using numbers = std::conditional_t<own_scales, eight<float>, scaled_codes<Element>>;
  scaled_view<const Element, Tile> x;
  bool packs;

  explicit stored_tiles(const scaled_view<const Element, Tile>& tiles)
      : x(tiles), packs(takes_packs<lane_numbers>(tiles.values)) {}

  template <int Count>
  __device__ __forceinline__ void load(index_t row, index_t end, index_t column, index_t live,
                                       numbers (&to)[Count]) const {
    const Element* from = x.values.data() + row * x.values.stride(0) + column;
    pack<std::uint32_t, 2> codes[Count];
#pragma unroll
    for (int i = 0; i < Count; ++i)
      codes[i] = load_bytes<2>(from + i * x.values.stride(0), row + i < end ? live : 0, packs);
    if constexpr (own_scales) {  // the rows of a lane are of one tile
      float scales[lane_numbers];
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j)
        scales[j] = row < end && j < live ? x.scale_of(row, column + j) : 0.0f;
#pragma unroll
      for (int i = 0; i < Count; ++i) {
        values_of<Element>(codes[i], to[i].value);
#pragma unroll
        for (int j = 0; j < lane_numbers; ++j) to[i].value[j] = __fmul_rn(to[i].value[j], scales[j]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < Count; ++i)
        to[i] = {codes[i], row + i < end && live > 0 ? x.scale_of(row + i, column) : 0.0f};
    }
  }
};

namespace detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// Rows of a lane, whose loads are in flight together.
inline constexpr int rows_of_lane = 4;

/// How the 16 groups of lanes of a block lie over a matrix: `Across` of them side by side, the others below
/// each other. A block has a part of a band.
template <int Across>
struct block_of_lanes {
  static constexpr int rows = 16 / Across * rows_of_lane, parts_of_band = 128 / rows;

  static launch_shape shape(const row_groups& groups, index_t rows, index_t columns) {
    return {.grid = {static_cast<unsigned>(ceil_div(columns, 128 * Across)),
                     grid_of(groups.tiles(rows) * parts_of_band)}};
  }
  __device__ static index_t tile() {
    return static_cast<index_t>(blockIdx.x) * Across + threadIdx.x / tile_lanes % Across;
  }
  __device__ static index_t column() { return 128 * tile() + lane_numbers * (threadIdx.x % tile_lanes); }

  /// body(first row of a lane, end of its band) for all parts of bands that this block has to do; warps
  /// without a live row are left out.
  template <class Body>
  __device__ __forceinline__ static void each_part(const row_groups& groups, index_t all_rows,
                                                   const Body& body) {
    const index_t parts = groups.tiles(all_rows) * parts_of_band;
    for (index_t part = blockIdx.y; part < parts; part += gridDim.y) {
      const row_band band = band_of(groups, all_rows, part / parts_of_band);
      const index_t first = band.begin + part % parts_of_band * rows;
      const auto row_of_group = [&](int group) { return first + group / Across * rows_of_lane; };
      if (row_of_group(threadIdx.x / 32 * 2) < band.end)
        body(row_of_group(threadIdx.x / tile_lanes), band.end);
    }
  }
};

// ---- kernels ----------------------------------------------------------------------------------------------

/// A lane's part of a few rows of a tile: its codes and scales go to `target`, where it is tile `tile` and
/// columns from `column` on.
template <class Target>
__device__ __forceinline__ void put_tile(const Target& target, index_t row, index_t end, index_t tile,
                                         index_t column, index_t columns,
                                         float (&x)[rows_of_lane][lane_numbers], scale_kind kind) {
  const int lane = threadIdx.x % tile_lanes;
  float magnitudes[rows_of_lane];
#pragma unroll
  for (int i = 0; i < rows_of_lane; ++i) magnitudes[i] = largest_magnitude(x[i]);
  const float scale =
      scale_of_tile<typename Target::element>(largest_over_lanes<rows_of_lane>(magnitudes), kind);
  if (lane < rows_of_lane && row + lane < end && 128 * tile < columns)
    target.put_scale(row + lane, tile, scale);
  const divider by = divider::of(scale);
#pragma unroll
  for (int i = 0; i < rows_of_lane; ++i) {
    const divider by_row = by.of_lane(i);
#pragma unroll
    for (int j = 0; j < lane_numbers; ++j) x[i][j] = by_row(x[i][j]);
    if (row + i < end) target.put(row + i, column, columns - column, x[i]);
  }
}

/// Source::load gives what Source::floats makes numbers of; the codes go to Target::put.
template <class Source, class Target>
__global__ void __launch_bounds__(256)
    narrow_rows_kernel(const Source source, const Target target, const row_groups groups, index_t rows,
                       index_t columns, scale_kind kind) {
  using block = block_of_lanes<Target::tiles_across>;
  const index_t tile = block::tile(), column = block::column();
  block::each_part(groups, rows, [&](index_t row, index_t end) {
    typename Source::numbers loaded[rows_of_lane];
    source.load(row, end, column, columns - column, loaded);
    float x[rows_of_lane][lane_numbers];
#pragma unroll
    for (int i = 0; i < rows_of_lane; ++i) source.floats(loaded[i], x[i]);
    put_tile(target, row, end, tile, column, columns, x, kind);
  });
}

/// What Source::load gives goes to Target::put.
template <class Source, class Target>
__global__ void __launch_bounds__(256)
    convert_rows_kernel(const Source source, const Target target, const row_groups groups, index_t rows,
                        index_t columns) {
  using block = block_of_lanes<1>;
  const index_t column = block::column(), live = columns - column;
  block::each_part(groups, rows, [&](index_t row, index_t end) {
    typename Source::numbers x[rows_of_lane];
    source.load(row, end, column, live, x);
#pragma unroll
    for (int i = 0; i < rows_of_lane; ++i)
      if (row + i < end) target.put(row + i, column, live, x[i]);
  });
}

// ---- sources ----------------------------------------------------------------------------------------------

/// Numbers as they are.
template <class From>
struct plain_rows : float_rows<From> {
  using float_rows<From>::float_rows;
  using numbers = typename float_rows<From>::numbers;
  __device__ __forceinline__ void floats(const numbers& from, float (&to)[lane_numbers]) const {
#pragma unroll
    for (int j = 0; j < lane_numbers; ++j) to[j] = static_cast<float>(from[j]);
  }
};

}  // namespace detail

// ---- launch -----------------------------------------------------------------------------------------------

/// Quantises the live ones of `rows` rows, tile by tile.
template <class Source, class Target>
void narrow_rows(const char* name, cudaStream_t stream, const Source& source, const Target& target,
                 const row_groups& groups, index_t rows, index_t columns, scale_kind kind) {
  launch(name, stream, detail::block_of_lanes<Target::tiles_across>::shape(groups, rows, columns),
         detail::narrow_rows_kernel<Source, Target>, source, target, groups, rows, columns, kind);
}

/// Writes the live ones of `rows` rows as another type of number.
template <class Source, class Target>
void convert_rows(const char* name, cudaStream_t stream, const Source& source, const Target& target,
                  const row_groups& groups, index_t rows, index_t columns) {
  launch(name, stream, detail::block_of_lanes<1>::shape(groups, rows, columns),
         detail::convert_rows_kernel<Source, Target>, source, target, groups, rows, columns);
}

}  // namespace cuda

}  // namespace dsv3::inline DSV3_ABI
