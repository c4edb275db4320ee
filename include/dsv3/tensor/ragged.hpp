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

}  // namespace dsv3::inline DSV3_ABI
