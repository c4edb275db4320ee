// SPDX-License-Identifier: MIT
// scaled_view<Element, Tile>: narrow values and one scale per tile of them.
#pragma once

#include <dsv3/tensor/view.hpp>

#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// A tile of Rows x Columns values that share one scale.
template <int Rows, int Columns>
struct tile {
  static constexpr index_t rows = Rows, columns = Columns;
};

using row_tile = tile<1, 128>;      // of a token: activations and their gradients
using column_tile = tile<128, 1>;   // of a channel
using block_tile = tile<128, 128>;  // of a weight

/// value(i, j) = values(i, j) * scales(i / Tile::rows, j / Tile::columns). Tiles cut off by an edge count.
/// Of rank 3 it is a stack of such matrices.
template <class Element, class Tile, int Rank = 2>
struct scaled_view {
  using element = Element;
  using scale = std::conditional_t<std::is_const_v<Element>, const float, float>;
  static constexpr int rank = Rank;

  view<Element, Rank> values;         // [rows, columns]
  view<scale, Rank, strided> scales;  // [ceil(rows / Tile::rows), ceil(columns / Tile::columns)], any stride

  DSV3_HOST_DEVICE index_t extent(int axis) const { return values.extent(axis); }
  DSV3_HOST_DEVICE bool empty() const { return values.empty(); }

  DSV3_HOST_DEVICE float scale_of(index_t row, index_t column) const requires(Rank == 2) {
    return scales(row / Tile::rows, column / Tile::columns);
  }
  /// One matrix of the stack.
  DSV3_HOST_DEVICE auto operator[](index_t index) const requires(Rank == 3) {
    return scaled_view<Element, Tile, 2>{values[index], scales[index]};
  }

  template <class E = Element>
    requires(!std::is_const_v<E>)
  operator scaled_view<const E, Tile, Rank>() const { return {values, scales}; }

  /// The scales' extents for values of shape `s`.
  static shape scale_shape(const shape& s) {
    const index_t rows = ceil_div(s[Rank - 2], Tile::rows), columns = ceil_div(s[Rank - 1], Tile::columns);
    if constexpr (Rank == 3)
      return {s[0], rows, columns};
    else
      return {rows, columns};
  }
  /// Scales of these extents at `data` without gaps: those of rows' tiles lie tile by tile, so that
  /// neighbouring rows have neighbouring scales, as products and transposing quantisers take them.
  static view<scale, Rank, strided> scales_at(scale* data, const shape& s) {
    if constexpr (Rank == 2 && Tile::rows == 1)
      return {data, {s[0], s[1]}, {1, s[0]}};
    else
      return view<scale, Rank, strided>::of_shape(data, s);
  }
};

/// What a bundle's matrix consists of: a number, or numbers in scaled tiles.
template <class Element, class Tile>
struct scaled {};

namespace detail {
template <class Matrix, int Rank>
struct matrix_of {
  using type = view<Matrix, Rank>;
};
template <class Element, class Tile, int Rank>
struct matrix_of<scaled<Element, Tile>, Rank> {
  using type = scaled_view<Element, Tile, Rank>;
};
template <class Element, class Tile, int Rank>
struct matrix_of<const scaled<Element, Tile>, Rank> {
  using type = scaled_view<const Element, Tile, Rank>;
};
}  // namespace detail

/// view<Matrix, Rank>, or scaled_view<Element, Tile, Rank> where Matrix is scaled<Element, Tile>.
template <class Matrix, int Rank>
using matrix_field = typename detail::matrix_of<Matrix, Rank>::type;

}  // namespace dsv3::inline DSV3_ABI
