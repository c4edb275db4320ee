// SPDX-License-Identifier: MIT
// Operands in scaled tiles for products that are cut anywhere.
#pragma once

#include <dsv3/cpu/linear/tiles.hpp>
#include <dsv3/tensor/scaled.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cpu {

/// A rectangle of a matrix in scaled tiles; its edges may cut tiles.
template <class Element, class Tile>
class scaled_part {
 public:
  scaled_part(const scaled_view<const Element, Tile>& whole) : values_(whole.values), scales_(whole.scales) {}

  const view<const Element, 2>& values() const { return values_; }
  index_t extent(int axis) const { return values_.extent(axis); }
  float scale_of(index_t row, index_t column) const {
    return scales_((origin_[0] + row) / Tile::rows, (origin_[1] + column) / Tile::columns);
  }
  /// The columns from this one to the end of its tile or of the part.
  index_t columns_from(index_t column) const {
    return std::min(Tile::columns - (origin_[1] + column) % Tile::columns, extent(1) - column);
  }

  scaled_part slice(int axis, index_t begin, index_t end) const {
    scaled_part part = *this;
    part.values_ = values_.slice(axis, begin, end);
    part.origin_[axis] += begin;
    return part;
  }

 private:
  view<const Element, 2> values_;
  view<const float, 2, strided> scales_;  // of the whole matrix
  index_t origin_[2] = {};                // of the rectangle in it
};

template <class Element, class Tile>
struct operand_of<scaled<Element, Tile>> {
  using type = scaled_part<Element, Tile>;
};

/// Codes times scales, row after row.
template <class Element, class Tile>
void copy_numbers(const scaled_part<Element, Tile>& from, float* to) {
  for (index_t r = 0; r < from.extent(0); ++r, to += from.extent(1))
    for (index_t first = 0, count; first < from.extent(1); first += count) {
      count = from.columns_from(first);
      const Element* codes = from.values()[r].data() + first;
      float* numbers = to + first;
      const float scale = from.scale_of(r, first);
      DSV3_SIMD
      for (index_t i = 0; i < count; ++i) numbers[i] = static_cast<float>(codes[i]) * scale;
    }
}

}  // namespace dsv3::inline DSV3_ABI::cpu
