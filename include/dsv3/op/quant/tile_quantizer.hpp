// SPDX-License-Identifier: MIT
// Numbers to narrow numbers in scaled tiles, and back.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/fp8_recipe.hpp>
#include <dsv3/number/traits.hpp>
#include <dsv3/tensor/ragged.hpp>
#include <dsv3/tensor/scaled.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// For every tile, with amax its largest magnitude (of the whole block or tensor where `group` says so):
///   scale = tile_scale(amax, largest of Element, scales)          y = Element(x / scale)
/// dequantize: x = From(y · scale), a product of floats. From is float, bf16 or double; a double is first
/// rounded to float. NaN stays NaN, an infinity becomes NaN: neither is saturated. Report, section 3.3.2.
template <class From, class Element, class Tile>
struct tile_quantizer {
  struct forward_args {
    static constexpr const char* name = "tile_quantizer.forward";
    view<const From, 2> x;         // [rows, columns]
    scaled_view<Element, Tile> y;  // [rows, columns]    live rows written, with their scales
    scale_kind scales = scale_kind::real;
    scale_group group = scale_group::tile;
    row_groups groups = {};  // live rows; tiles of one row only (Tile::rows is 1)
    status check() const;
    void outputs(auto&& visit) const { visit("values", y.values), visit("scales", y.scales); }
  };

  struct dequantize_args {
    static constexpr const char* name = "tile_quantizer.dequantize";
    scaled_view<const Element, Tile> x;  // [rows, columns]
    view<From, 2> y;                     // [rows, columns]    live rows written
    row_groups groups = {};
    status check() const;
    void outputs(auto&& visit) const { visit("y", y); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void dequantize(Ctx&, const dequantize_args&);
};

namespace detail {

/// The demands on a quantiser's wide and narrow side.
template <class From, class Element, class Tile>
void match_tiles(requirements& need, const char* wide_name, const view<From, 2>& wide,
                 const char* narrow_name, const scaled_view<Element, Tile>& narrow) {
  need.equal(narrow_name, "rows", narrow.extent(0), wide_name, wide.extent(0))
      .equal(narrow_name, "columns", narrow.extent(1), wide_name, wide.extent(1))
      .equal("scales", "rows", narrow.scales.extent(0), "the tiles", ceil_div(wide.extent(0), Tile::rows))
      .equal("scales", "columns", narrow.scales.extent(1), "the tiles",
             ceil_div(wide.extent(1), Tile::columns))
      .present(wide_name, wide)
      .present(narrow_name, narrow.values)
      .present("scales", narrow.scales);
}

}  // namespace detail

template <class From, class Element, class Tile>
status tile_quantizer<From, Element, Tile>::forward_args::check() const {
  requirements need{name};
  detail::match_tiles(need, "x", x, "y", y);
  need.that(groups.all() || Tile::rows == 1, "groups of rows need tiles of one row");
  return need.verdict();
}
template <class From, class Element, class Tile>
status tile_quantizer<From, Element, Tile>::dequantize_args::check() const {
  requirements need{name};
  detail::match_tiles(need, "y", y, "x", x);
  need.that(groups.all() || Tile::rows == 1, "groups of rows need tiles of one row");
  return need.verdict();
}

template <class From, class Element, class Tile>
template <execution_context Ctx>
void tile_quantizer<From, Element, Tile>::forward(Ctx& ctx, const forward_args& args) {
  invoke<tile_quantizer>(ctx, args);
}
template <class From, class Element, class Tile>
template <execution_context Ctx>
void tile_quantizer<From, Element, Tile>::dequantize(Ctx& ctx, const dequantize_args& args) {
  invoke<tile_quantizer>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
