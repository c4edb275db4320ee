// SPDX-License-Identifier: MIT
// How operations on every element share a matrix among threads, be it many short rows or one long one.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>

namespace dsv3::inline DSV3_ABI::cpu {

/// Calls body(row, first, last) for pieces of rows that together are all `rows` x `columns` elements.
template <class Body>
void parallel_segments(int threads, index_t rows, index_t columns, Body&& body) {
  constexpr index_t grain = 16384;  // elements below which a thread costs more than it does
  parallel_ranges(threads, rows * columns, grain, [&](index_t begin, index_t end) {
    while (begin < end) {
      const index_t row = begin / columns, first = begin % columns,
                    last = std::min(columns, first + end - begin);
      body(row, first, last);
      begin += last - first;
    }
  });
}

}  // namespace dsv3::inline DSV3_ABI::cpu
