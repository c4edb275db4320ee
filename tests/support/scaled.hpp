// SPDX-License-Identifier: MIT
// An oracle's scaled matrix as the library sees one: guarded, with poison wherever no tile reaches.
#pragma once

#include <dsv3/tensor/scaled.hpp>

#include <oracle/scaled_matrix.hpp>
#include <support/guarded.hpp>

namespace support {

/// How the scales lie: rows of tiles side by side, or columns of tiles as matrix units on GPUs want them.
enum class scales_lie { by_row, by_column };

/// Owns the values and scales of a [rows, columns] matrix, or of a stack of such matrices of which one is put
/// at a time. At first everything is NaN.
template <class Element, class Tile>
class scaled_operand {
 public:
  scaled_operand(index_t gap, index_t matrices, index_t rows, index_t columns, index_t tiles_down,
                 index_t tiles_across, scales_lie lie = scales_lie::by_row)
      : values_(gap, matrices, rows, columns),
        scales_(gap + 1, matrices, lie == scales_lie::by_row ? tiles_down : tiles_across,
                lie == scales_lie::by_row ? tiles_across : tiles_down),
        tiles_down_(tiles_down),
        tiles_across_(tiles_across),
        lie_(lie) {}

  /// A matrix of its own.
  scaled_operand(index_t gap, const oracle::scaled_matrix& m, scales_lie lie = scales_lie::by_row)
      : scaled_operand(gap, 1, index(m.rows), index(m.columns), index(m.tiles_down()),
                       index(m.tiles_across()), lie) {
    put(m, 0, 0, 0, 0, 0);
  }

  /// Writes m at a row and column of matrix `which`, its tiles from these on.
  void put(const oracle::scaled_matrix& m, index_t which, index_t row, index_t column, index_t tile_row,
           index_t tile_column) {
    for (std::size_t r = 0; r < m.rows; ++r)
      for (std::size_t c = 0; c < m.columns; ++c)
        values_.get()(which, row + index(r), column + index(c)) =
            Element::from_bits(m.codes[r * m.columns + c]);
    const auto to = all_scales();
    for (std::size_t r = 0; r < m.tiles_down(); ++r)
      for (std::size_t c = 0; c < m.tiles_across(); ++c)
        to(which, tile_row + index(r), tile_column + index(c)) = m.scales[r * m.tiles_across() + c];
  }

  dsv3::scaled_view<const Element, Tile> get() { return stack()[0]; }
  dsv3::scaled_view<const Element, Tile, 3> stack() { return {values_.get(), all_scales()}; }
  dsv3::view<Element, 3> values() { return values_.get(); }
  bool intact() { return values_.intact() && scales_.intact(); }

 private:
  static index_t index(std::size_t i) { return static_cast<index_t>(i); }

  dsv3::view<float, 3, dsv3::strided> all_scales() {
    const auto lying = scales_.get();
    const bool by_row = lie_ == scales_lie::by_row;
    const index_t extents[] = {lying.extent(0), tiles_down_, tiles_across_},
                  strides[] = {lying.stride(0), lying.stride(by_row ? 1 : 2), lying.stride(by_row ? 2 : 1)};
    return {lying.data(), extents, strides};
  }

  guarded<Element, 3> values_;
  guarded<float, 3> scales_;
  index_t tiles_down_, tiles_across_;
  scales_lie lie_;
};

}  // namespace support
