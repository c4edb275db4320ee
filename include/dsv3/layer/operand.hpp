// SPDX-License-Identifier: MIT
// What a precision's linear layers multiply, and what they are stored as.
#pragma once

#include <dsv3/number/fp8_recipe.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/tensor/scaled.hpp>

#include <type_traits>

namespace dsv3::inline DSV3_ABI {

namespace detail {
template <class P, class Operand>
struct operand_kinds;
template <class P, class Element>
struct operand_kinds<P, dense_operand<Element>> {
  using weight = typename P::weight;
  using input = typename P::activation;
  static constexpr bool scaled_tiles = false;
};
template <class P, class Element>
struct operand_kinds<P, tile_operand<Element>> {
  using weight = scaled<Element, block_tile>;
  using input = scaled<Element, row_tile>;
  static constexpr bool scaled_tiles = true;
};
template <class P>
using operand_kinds_of = operand_kinds<P, typename P::operand>;
}  // namespace detail

/// Precisions whose linear layers multiply narrow numbers in scaled tiles.
template <class P>
concept tilewise = precision<P> && detail::operand_kinds_of<P>::scaled_tiles;

/// What a linear layer's weight consists of: numbers, or numbers in scaled tiles.
template <precision P>
using product_weight = typename detail::operand_kinds_of<P>::weight;

/// What its input consists of when the product reads it.
template <precision P>
using product_input = typename detail::operand_kinds_of<P>::input;

/// Rows as a product reads them: [rows, columns].
template <precision P>
using operand_rows = matrix_field<product_input<P>, 2>;
template <precision P>
using operand_view = matrix_field<const product_input<P>, 2>;

/// Rows in tiles, and their scales, in scratch. `tiles` is how many a row has.
template <class Element, class Ctx>
scaled_view<Element, row_tile> scratch_tiles(Ctx& ctx, index_t rows, index_t columns, index_t tiles) {
  return {ctx.scratch.template tensor<Element>(rows, columns),
          scaled_view<Element, row_tile>::scales_at(ctx.scratch.template take<float>(rows * tiles),
                                                    {rows, tiles})};
}
template <class Element, class Ctx>
scaled_view<Element, row_tile> scratch_tiles(Ctx& ctx, index_t rows, index_t columns) {
  return scratch_tiles<Element>(ctx, rows, columns, ceil_div(columns, 128));
}

/// Rows in tiles whose codes are of another format of 8 bits than their type says: those of gradients.
template <class Element>
scaled_view<Element, row_tile> as_codes(const scaled_view<fp8_e4m3, row_tile>& x) {
  static_assert(sizeof(Element) == sizeof(fp8_e4m3));
  return {{reinterpret_cast<Element*>(x.values.data()),
           {x.values.extent(0), x.values.extent(1)},
           {x.values.stride(0), 1}},
          x.scales};
}
template <class Element>
scaled_view<const Element, row_tile> as_codes(const scaled_view<const fp8_e4m3, row_tile>& x) {
  static_assert(sizeof(Element) == sizeof(fp8_e4m3));
  return {{reinterpret_cast<const Element*>(x.values.data()),
           {x.values.extent(0), x.values.extent(1)},
           {x.values.stride(0), 1}},
          x.scales};
}

/// Calls act with a number of the recipe's format of gradients.
template <class Act>
void with_gradient_format(const fp8_recipe& recipe, Act&& act) {
  if (recipe.gradient == gradient_format::e5m2)
    act(fp8_e5m2{});
  else
    act(fp8_e4m3{});
}

}  // namespace dsv3::inline DSV3_ABI
