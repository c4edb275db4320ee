// SPDX-License-Identifier: MIT
// scaled_view<Element, Tile>: narrow values and one scale per tile of them.
#pragma once

#include <dsv3/tensor/view.hpp>

namespace dsv3::inline DSV3_ABI {

/// A tile of Rows x Columns values that share one scale.
template <int Rows, int Columns>
struct tile {
  static constexpr index_t rows = Rows, columns = Columns;
};

/// value(i, j) = values(i, j) * scales(i / Tile::rows, j / Tile::columns). Tiles cut off by an edge count.
template <class Element, class Tile>
struct scaled_view {
  view<Element, 2> values;         // [rows, columns]
  view<float, 2, strided> scales;  // [ceil(rows / Tile::rows), ceil(columns / Tile::columns)], any stride

  DSV3_HOST_DEVICE float scale_of(index_t row, index_t column) const {
    return scales(row / Tile::rows, column / Tile::columns);
  }
};

}  // namespace dsv3::inline DSV3_ABI
