// SPDX-License-Identifier: MIT
// paged_view<T>: rows of several sequences kept in pages of a shared pool; the latent cache.
#pragma once

#include <dsv3/tensor/view.hpp>

#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// Row j of sequence b lies in page table(b, j / page_rows), row j % page_rows. Rows at and beyond lengths(b)
/// may hold anything, NaN included.
template <class T>
struct paged_view {
  view<T, 3> pages;                     // [pages, page_rows, width]
  view<const std::int32_t, 2> table;    // [sequences, pages per sequence]
  view<const std::int32_t, 1> lengths;  // [sequences]      rows in use

  DSV3_HOST_DEVICE index_t page_rows() const { return pages.extent(1); }
  DSV3_HOST_DEVICE view<T, 1> row(index_t sequence, index_t j) const {
    return pages[table(sequence, j / page_rows())][j % page_rows()];
  }

  template <class U = T>
    requires(!std::is_const_v<U>)
  operator paged_view<const U>() const { return {pages, table, lengths}; }
};

}  // namespace dsv3::inline DSV3_ABI
