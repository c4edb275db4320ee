// SPDX-License-Identifier: MIT
// Quantised matrices for tests: guarded codes and scales, the latter with either extent contiguous.
#pragma once

#include <support/guarded.hpp>

#include <dsv3/tensor/scaled.hpp>

namespace support {

/// [rows, columns] codes in tiles; everything is poison at first. `scale_columns` is not told by the codes'
/// extents where groups keep tiles apart.
template <class Element, class Tile>
class guarded_tiles {
 public:
  guarded_tiles(index_t rows, index_t columns, bool token_minor)
      : guarded_tiles(rows, columns, token_minor, dsv3::ceil_div(columns, Tile::columns)) {}
  guarded_tiles(index_t rows, index_t columns, bool token_minor, index_t scale_columns)
      : values_(gap_of(columns), rows, columns),
        scales_(2, token_minor ? scale_columns : dsv3::ceil_div(rows, Tile::rows),
                token_minor ? dsv3::ceil_div(rows, Tile::rows) : scale_columns),
        token_minor_(token_minor) {}

  dsv3::scaled_view<Element, Tile> get() {
    const auto stored = scales_.get();
    const int row = token_minor_ ? 1 : 0;
    const index_t extents[] = {stored.extent(row), stored.extent(1 - row)};
    const index_t strides[] = {stored.stride(row), stored.stride(1 - row)};
    return {values_, {stored.data(), extents, strides}};
  }
  operator dsv3::scaled_view<Element, Tile>() { return get(); }
  operator dsv3::scaled_view<const Element, Tile>() { return get(); }

  /// True when codes, scales, and everything around them have the same bits.
  bool same_bits(const guarded_tiles& other) const {
    return values_.same_bits(other.values_) && scales_.same_bits(other.scales_);
  }
  bool intact() { return values_.intact() && scales_.intact(); }

 private:
  // Rows that start on 16 bytes where their length allows it, and anywhere where it does not.
  static index_t gap_of(index_t columns) { return columns % 16 == 0 ? 16 : columns % 8 == 0 ? 8 : 3; }

  guarded<Element> values_;
  guarded<float> scales_;
  bool token_minor_;
};

template <class Element>
using row_tiles = guarded_tiles<Element, dsv3::row_tile>;

}  // namespace support
