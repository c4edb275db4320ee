// SPDX-License-Identifier: MIT
// Quantised rows for tests: guarded codes and scales, the latter with either extent contiguous.
#pragma once

#include <support/guarded.hpp>

#include <dsv3/tensor/scaled.hpp>

namespace support {

/// [rows, columns] codes in tiles of one row; everything is poison at first.
template <class Element>
class row_tiles {
 public:
  row_tiles(index_t rows, index_t columns, bool token_minor)
      : values_(3, rows, columns),
        scales_(2, token_minor ? dsv3::ceil_div(columns, 128) : rows,
                token_minor ? rows : dsv3::ceil_div(columns, 128)),
        token_minor_(token_minor) {}

  dsv3::scaled_view<Element, dsv3::row_tile> get() {
    const auto stored = scales_.get();
    const int row = token_minor_ ? 1 : 0;
    const index_t extents[] = {stored.extent(row), stored.extent(1 - row)};
    const index_t strides[] = {stored.stride(row), stored.stride(1 - row)};
    return {values_, {stored.data(), extents, strides}};
  }
  operator dsv3::scaled_view<Element, dsv3::row_tile>() { return get(); }

  /// True when codes, scales, and everything around them have the same bits.
  bool same_bits(const row_tiles& other) const {
    return values_.same_bits(other.values_) && scales_.same_bits(other.scales_);
  }
  bool intact() { return values_.intact() && scales_.intact(); }

 private:
  guarded<Element> values_;
  guarded<float> scales_;
  bool token_minor_;
};

}  // namespace support
