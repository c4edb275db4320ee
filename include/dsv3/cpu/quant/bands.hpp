// SPDX-License-Identifier: MIT
// Bands of up to 128 rows of one group, and how quantisers share them among threads.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/tensor/ragged.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cpu {

/// Live rows [begin, end) of one group; `tile` is their number among the tiles along the rows.
struct row_band {
  index_t begin = 0, end = 0, tile = 0;
};

/// The band of tile `number` (tensor/ragged.hpp says how they are numbered); without rows where there is
/// none.
inline row_band band_of(const row_groups& groups, index_t rows, index_t number) {
  index_t group = 0, after = groups.groups();  // the last group whose first tile is not beyond `number`
  while (after - group > 1) {
    const index_t middle = (group + after) / 2;
    (groups.first_tile(middle) <= number ? group : after) = middle;
  }
  const index_t first = groups.first(group), last = first + groups.count(group, rows);
  const index_t begin = first + 128 * (number - groups.first_tile(group));
  if (begin < first || begin >= last) return {};
  return {begin, std::min(begin + 128, last), number};
}

/// Calls body(band, first, last) for the columns [first, last) of every band; `width` columns at a time.
template <class Body>
void parallel_bands(int threads, const row_groups& groups, index_t rows, index_t columns, index_t width,
                    Body&& body) {
  constexpr index_t grain = 16384;  // elements below which a thread costs more than it does
  const index_t strips = ceil_div(columns, width);
  parallel_parts(rows * columns < grain ? 1 : threads, groups.tiles(rows) * strips, [&](index_t part) {
    const row_band band = band_of(groups, rows, part / strips);
    const index_t first = part % strips * width;
    if (band.begin < band.end) body(band, first, std::min(first + width, columns));
  });
}

/// How many columns to take at a time where rows can be done one by one: all, because memory is read fastest
/// in its own order, unless there are too few bands for all threads.
inline index_t stretch_of(int threads, const row_groups& groups, index_t rows, index_t columns) {
  const index_t parts = groups.tiles(rows) >= 2 * threads ? 1 : 2 * threads;
  return std::max<index_t>(round_up(ceil_div(columns, parts), 128), 128);
}

}  // namespace dsv3::inline DSV3_ABI::cpu
