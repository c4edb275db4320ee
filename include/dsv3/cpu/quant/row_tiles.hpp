// SPDX-License-Identifier: MIT
// Tiles of one row on the CPU: up to 128 neighbours that share a scale.
#pragma once

#include <dsv3/cpu/host/narrow.hpp>
#include <dsv3/cpu/host/room.hpp>
#include <dsv3/cpu/quant/bands.hpp>
#include <dsv3/number/scale.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cpu {

/// Columns of a row that are quantised at a time, at most: whole tiles, and what the nearest cache holds.
inline constexpr index_t strip_columns = 4096;

/// Calls body(row, first, count) for strips that together are all live rows.
template <class Body>
void parallel_strips(int threads, const row_groups& groups, index_t rows, index_t columns, Body&& body) {
  parallel_bands(threads, groups, rows, columns, stretch_of(threads, groups, rows, columns),
                 [&](const row_band& band, index_t begin, index_t end) {
                   for (index_t row = band.begin; row < band.end; ++row)
                     for (index_t first = begin; first < end; first += strip_columns)
                       body(row, first, std::min(strip_columns, end - first));
                 });
}

/// Codes of up to strip_columns numbers; put(tile, scale) for each 128 of them.
template <class From, class Element, class Put>
void quantize_strip(const From* x, index_t count, scale_kind kind, Element* y, Put&& put) {
  constexpr index_t most = strip_columns / 128;
  magnitude_of<From> magnitudes[most] = {};
  scale_row<most> by;
  const index_t tiles = ceil_div(count, 128);
  for (index_t tile = 0; tile < tiles; ++tile)
    magnitudes[tile] = largest_of_tile(x + 128 * tile, std::min<index_t>(128, count - 128 * tile));
  by.assign(magnitudes, tiles, static_cast<float>(number_traits<Element>::max), kind);
  for (index_t tile = 0; tile < tiles; ++tile) put(tile, by.scales[tile]);
  narrow_tiles(x, by, y, count);
}

}  // namespace dsv3::inline DSV3_ABI::cpu
