// SPDX-License-Identifier: MIT
// ragged_view<T>: rows packed group by group; rows per expert, or tokens per sequence.
#pragma once

#include <dsv3/tensor/view.hpp>

#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// Group g owns the rows [offsets[g], offsets[g] + counts[g]) of `rows`; the rows from there to
/// offsets[g + 1] are padding, whose content is never read. Offsets and counts live where the data lives.
/// Contiguous expert layout aligns the offsets, masked layout spaces them evenly: kernels see no difference.
template <class T>
struct ragged_view {
  view<T, 2> rows;                      // [row capacity, width]
  view<const std::int32_t, 1> offsets;  // [groups + 1]
  view<const std::int32_t, 1> counts;   // [groups]

  DSV3_HOST_DEVICE index_t groups() const { return counts.extent(0); }
  DSV3_HOST_DEVICE index_t width() const { return rows.extent(1); }

  /// The live rows of one group. Reads offsets and counts: call it where they live.
  DSV3_HOST_DEVICE view<T, 2> group(index_t g) const { return rows.rows(offsets(g), offsets(g) + counts(g)); }

  template <class U = T>
    requires(!std::is_const_v<U>)
  operator ragged_view<const U>() const { return {rows, offsets, counts}; }
};

/// Rows that belong together: tokens of one expert. Empty: all rows are live, and one group.
struct row_groups {
  view<const std::int32_t, 1> offsets = {};  // [groups + 1]   first row of each group
  view<const std::int32_t, 1> counts = {};   // [groups]       live rows of each; those after them are padding
  index_t alignment =
      1;  // what all offsets are multiples of: the host cannot look, and some engines must know

  DSV3_HOST_DEVICE bool all() const { return counts.empty(); }
  DSV3_HOST_DEVICE index_t groups() const { return all() ? 1 : counts.extent(0); }
  /// Reads offsets and counts: call these where they live.
  DSV3_HOST_DEVICE index_t first(index_t g) const { return all() ? 0 : offsets(g); }
  DSV3_HOST_DEVICE index_t count(index_t g, index_t rows) const { return all() ? rows : counts(g); }

  /// Tiles along the rows never hold rows of two groups. Those of group g are numbered from here on, and
  /// there are no more than tiles(rows) numbers.
  DSV3_HOST_DEVICE index_t first_tile(index_t g) const { return first(g) / 128 + g; }
  DSV3_HOST_DEVICE index_t tiles(index_t rows) const {
    return all() ? ceil_div(rows, 128) : tiles(rows, groups());
  }
  DSV3_HOST_DEVICE static index_t tiles(index_t rows, index_t groups) { return rows / 128 + groups + 1; }
};

}  // namespace dsv3::inline DSV3_ABI
