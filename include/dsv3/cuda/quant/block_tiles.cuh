// SPDX-License-Identifier: MIT
// Blocks of 128x128 numbers on the GPU, read once and held in registers: to tiles that are shared down the
// columns or by the whole block, and to transposed ones.
#pragma once

#include <dsv3/cuda/quant/row_tiles.cuh>
#include <dsv3/exec/scratch.hpp>
#include <dsv3/number/fp8_recipe.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda {

/// Narrow values of 8 bits as columns: tiles of 128 rows of the numbers become rows of tiles.
template <class Element>
struct transposed_codes {
  using element = Element;
  view<Element, 2> values;         // [columns, rows]
  view<float, 2, strided> scales;  // [columns, tiles]
  bool packs;

  transposed_codes(const view<Element, 2>& codes, const view<float, 2, strided>& scales)
      : values(codes), scales(scales), packs(takes_packs<16>(codes)) {}
};
/// Where nothing is written as rows, or transposed.
struct no_rows {};
struct no_transposed_codes {};

/// How scales are chosen. `largest` is the bits of the largest magnitude of all, where all share one.
struct block_scales {
  scale_kind kind;
  scale_group group;
  std::uint32_t* largest;
};

namespace detail {

// ---- kernels ----------------------------------------------------------------------------------------------

// A block has 16 strips of 8 rows; a tile's lanes hold a strip.
inline constexpr int strip_rows = 8;

/// body(band) for all bands that this block has to do.
template <class Body>
__device__ __forceinline__ void each_band(const row_groups& groups, index_t rows, const Body& body) {
  const index_t bands = groups.tiles(rows);
  for (index_t number = blockIdx.y; number < bands; number += gridDim.y)
    if (const row_band band = band_of(groups, rows, number); band.begin < band.end) body(band);
}

template <class Numbers>
__device__ __forceinline__ float largest_of_strip(const Numbers (&x)[strip_rows]) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < strip_rows; ++i)
#pragma unroll
    for (int j = 0; j < lane_numbers; ++j) largest = larger_magnitude(largest, static_cast<float>(x[i][j]));
  return largest;
}

/// *largest becomes the bits of the largest magnitude, which must be zero before. Bits of magnitudes are
/// ordered as these are, and the largest is the same whoever comes first.
template <class Source>
__global__ void __launch_bounds__(256)
    largest_kernel(const Source source, std::uint32_t* largest, const row_groups groups, index_t rows,
                   index_t columns) {
  __shared__ float room[32];
  const int lane = threadIdx.x % tile_lanes, strip = threadIdx.x / tile_lanes;
  const index_t column = 128 * static_cast<index_t>(blockIdx.x) + lane_numbers * lane;
  each_band(groups, rows, [&](const row_band& band) {
    typename Source::numbers x[strip_rows];
    source.load(band.begin + strip_rows * strip, band.end, column, columns - column, x);
    const float mine = reduce_block(largest_of_strip(x), room, larger{});
    if (threadIdx.x == 0) atomicMax(largest, __float_as_uint(mine));
  });
}

/// Reads the lanes' codes of a block, eight rows of a column each, out of shared memory where word pair
/// `strip` of a column stands at strip ^ (column / 8), and writes them.
template <class Element>
__device__ __forceinline__ void write_columns(const uint2 (&codes)[128][16],
                                              const transposed_codes<Element>& t, const row_band& band,
                                              index_t first) {
  const index_t count = band.end - band.begin;
  const bool packs = t.packs && band.begin % 16 == 0;
#pragma unroll
  for (int at = threadIdx.x; at < 128 * 8; at += 256) {
    const int column = at / 8, piece = at % 8, turn = column / 8;
    if (first + column >= t.values.extent(0)) continue;
    uint4 words = *reinterpret_cast<const uint4*>(&codes[column][2 * (piece ^ turn / 2)]);
    if (turn % 2 == 1) words = {words.z, words.w, words.x, words.y};
    Element* to = &t.values(first + column, band.begin + 16 * piece);
    const index_t live = count - 16 * piece;
    if (packs && live >= 16) {
      *reinterpret_cast<uint4*>(to) = words;
    } else {
      if (live > 0) store_bytes<2>(to, {words.x, words.y}, live, false);
      if (live > 8) store_bytes<2>(to + 8, {words.z, words.w}, live - 8, false);
    }
  }
}

/// How many blocks must have their registers on a multiprocessor together. Those of doubles may have all; and
/// before Hopper, those that write rows and columns have too few at two.
template <class Source, class Tile, class Columns>
inline constexpr int blocks_at_once = std::is_same_v<Source, float_rows<double>> ? 1
                                      : sizeof(typename Source::numbers) > 16    ? 2
                                      : std::is_void_v<Tile> || std::is_same_v<Columns, no_transposed_codes>
                                          ? 3
                                      : DSV3_SM90A ? 2
                                                   : 1;
/// Sources that compute what they give say it themselves.
template <class Source, class Tile, class Columns>
  requires requires { Source::blocks_at_once; }
inline constexpr int blocks_at_once<Source, Tile, Columns> = Source::blocks_at_once;

/// A block's numbers, a strip and eight columns of tile `tile` in each thread, to rows of codes in tiles of
/// shape Tile (void: none), and to transposed ones in tiles of 128 rows.
template <class Element, class Tile, class Numbers, class Rows, class Columns>
__device__ __forceinline__ void narrow_block(Numbers (&x)[strip_rows], const row_band& band, index_t tile,
                                             index_t columns, const Rows& y, const Columns& t,
                                             const block_scales& how) {
  constexpr bool by_row = std::is_same_v<Tile, row_tile>, by_block = std::is_same_v<Tile, block_tile>;
  constexpr bool transposed = !std::is_same_v<Columns, no_transposed_codes>;
  constexpr bool by_column = transposed || std::is_same_v<Tile, column_tile>;
  __shared__ float room[32];
  __shared__ float magnitudes[by_column ? 8 : 1][128];  // of the columns, as each warp sees them
  __shared__ divider column_scales[by_column ? 128 : 1];
  __shared__ alignas(16) uint2 codes[transposed ? 128 : 1][16];

  const int lane = threadIdx.x % tile_lanes, strip = threadIdx.x / tile_lanes;
  const index_t first = 128 * tile, column = first + lane_numbers * lane, live = columns - column;
  const index_t row = band.begin + strip_rows * strip;
  const bool own = how.group == scale_group::tile && !by_block;  // each tile has its own scale

  // 1. the scale that all share
  float whole = 0;
  if (how.group == scale_group::tensor)
    whole = __uint_as_float(*how.largest);
  else if (!own)
    whole = reduce_block(largest_of_strip(x), room, larger{});

  // 2. the columns' scales
  if constexpr (by_column) {
    if (own) {
      float largest[lane_numbers] = {};
#pragma unroll
      for (int i = 0; i < strip_rows; ++i)
#pragma unroll
        for (int j = 0; j < lane_numbers; j += 2) {
          float first_of_two, second_of_two;
          x[i].two(j / 2, first_of_two, second_of_two);
          largest[j] = larger_magnitude(largest[j], first_of_two);
          largest[j + 1] = larger_magnitude(largest[j + 1], second_of_two);
        }
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j)
        largest[j] = fmaxf(largest[j], __shfl_xor_sync(all_lanes, largest[j], tile_lanes));
      if (strip % 2 == 0)
#pragma unroll
        for (int j = 0; j < lane_numbers; ++j) magnitudes[strip / 2][lane_numbers * lane + j] = largest[j];
      __syncthreads();
    }
    if (const int c = threadIdx.x; c < 128) {
      float largest = whole;
      if (own)
#pragma unroll
        for (int warp = 0; warp < 8; ++warp) largest = fmaxf(largest, magnitudes[warp][c]);
      const float scale = scale_of_tile<Element>(largest, how.kind);
      column_scales[c] = divider::of(scale);
      if (first + c < columns) {
        if constexpr (transposed) t.scales(first + c, band.tile) = scale;
        if constexpr (std::is_same_v<Tile, column_tile>) y.put_scale(band.tile, first + c, scale);
      }
    }
    __syncthreads();
  }

  // 3. codes down the columns, to shared memory
  if constexpr (transposed) {
#pragma unroll
    for (int i = 0; i < strip_rows; ++i) x[i].stay_packed();
#pragma unroll
    for (int j = 0; j < lane_numbers; j += 2) {
      const divider by[] = {column_scales[lane_numbers * lane + j],
                            column_scales[lane_numbers * lane + j + 1]};
      float quotients[2][strip_rows];
#pragma unroll
      for (int i = 0; i < strip_rows; ++i) {
        x[i].two(j / 2, quotients[0][i], quotients[1][i]);
        quotients[0][i] = by[0](quotients[0][i]), quotients[1][i] = by[1](quotients[1][i]);
      }
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const pack<std::uint32_t, 2> words = codes_of<Element>(quotients[k]);
        codes[lane_numbers * lane + j + k][strip ^ lane] = {words[0], words[1]};
      }
    }
  }

  // 4. codes along the rows
  if constexpr (!std::is_void_v<Tile>) {
#pragma unroll
    for (int i = 0; i < strip_rows; ++i) x[i].stay_packed();
    divider by[lane_numbers];
    if constexpr (std::is_same_v<Tile, column_tile>) {
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j) by[j] = column_scales[lane_numbers * lane + j];
    } else {
      float largest = whole;
      if (by_row && own) {
        float of_row[strip_rows];
#pragma unroll
        for (int i = 0; i < strip_rows; ++i) {
          of_row[i] = 0;
#pragma unroll
          for (int j = 0; j < lane_numbers; ++j)
            of_row[i] = larger_magnitude(of_row[i], static_cast<float>(x[i][j]));
        }
        largest = largest_over_lanes<strip_rows>(of_row);
      }
      const float scale = scale_of_tile<Element>(largest, how.kind);
      by[0] = divider::of(scale);
      if (by_row && lane < strip_rows && row + lane < band.end) y.put_scale(row + lane, tile, scale);
      if (by_block && threadIdx.x == 0) y.put_scale(band.tile, tile, scale);
    }
#pragma unroll
    for (int i = 0; i < strip_rows; ++i) {
      const divider of_row = by_row ? by[0].of_lane(i) : by[0];
      float quotients[lane_numbers];
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j)
        quotients[j] = (std::is_same_v<Tile, column_tile> ? by[j] : of_row)(static_cast<float>(x[i][j]));
      if (row + i < band.end) y.put(row + i, column, live, quotients);
    }
  }

  // 5. and from there on, in rows of t
  if constexpr (transposed) {
    __syncthreads();
    write_columns<Element>(codes, t, band, first);
  }
  __syncthreads();  // before the next block takes the shared memory
}

/// What Source::load gives, block by block.
template <class Element, class Tile, class Source, class Rows, class Columns>
__global__ void __launch_bounds__(256, (blocks_at_once<Source, Tile, Columns>))
    narrow_blocks_kernel(const Source source, const Rows y, const Columns t, const block_scales how,
                         const row_groups groups, index_t rows, index_t columns) {
  const index_t tile = blockIdx.x, column = 128 * tile + lane_numbers * (threadIdx.x % tile_lanes);
  each_band(groups, rows, [&](const row_band& band) {
    typename Source::numbers x[strip_rows];
    source.load(band.begin + strip_rows * (threadIdx.x / tile_lanes), band.end, column, columns - column, x);
    narrow_block<Element, Tile>(x, band, tile, columns, y, t, how);
  });
}

}  // namespace detail

// ---- launch -----------------------------------------------------------------------------------------------

/// Quantises the live ones of `rows` rows, block by block; the tensor's largest magnitude is looked for
/// before, where all share one scale.
template <class Element, class Tile, class Source, class Rows, class Columns>
void narrow_blocks(const char* name, cudaStream_t stream, const Source& source, const Rows& y,
                   const Columns& t, const block_scales& how, const row_groups& groups, index_t rows,
                   index_t columns) {
  const launch_shape shape{
      .grid = {static_cast<unsigned>(ceil_div(columns, 128)), grid_of(groups.tiles(rows))}};
  if constexpr (!requires { Source::blocks_at_once; })  // these share no scale beyond tiles
    if (how.group == scale_group::tensor) {
      require(cudaMemsetAsync(how.largest, 0, sizeof(*how.largest), stream), name);
      launch(name, stream, shape, detail::largest_kernel<Source>, source, how.largest, groups, rows, columns);
    }
  launch(name, stream, shape, detail::narrow_blocks_kernel<Element, Tile, Source, Rows, Columns>, source, y,
         t, how, groups, rows, columns);
}

/// Room for the tensor's largest magnitude, where all share one scale.
inline std::uint32_t* room_for_largest(scratch_arena& arena, scale_group group) {
  return group == scale_group::tensor ? arena.take<std::uint32_t>(1) : nullptr;
}

}  // namespace cuda

}  // namespace dsv3::inline DSV3_ABI
