// SPDX-License-Identifier: MIT
// How operations on the live rows of groups share them among threads.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/tensor/ragged.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cpu {

/// Calls body(slot, row) for every live row of `rows` that are `columns` wide; `slot` as in parallel_slots.
/// Padding may gather at one end of the rows, so a thread takes a few of them at a time.
template <class Body>
void each_live_row(int threads, const row_groups& groups, index_t rows, index_t columns, Body&& body) {
  const index_t chunk = 1 + (1 << 15) / (columns + 1);
  parallel_slots(threads, ceil_div(rows, chunk), [&](index_t slot, index_t part) {
    const index_t begin = part * chunk, end = std::min(begin + chunk, rows);
    for (index_t g = 0; g < groups.groups(); ++g) {
      const index_t first = groups.first(g), last = first + groups.count(g, rows);
      for (index_t row = std::max(begin, first); row < std::min(end, last); ++row) body(slot, row);
    }
  });
}

}  // namespace dsv3::inline DSV3_ABI::cpu
