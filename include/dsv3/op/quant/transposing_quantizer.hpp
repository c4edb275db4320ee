// SPDX-License-Identifier: MIT
// Tiles along the rows, stored transposed: what a product needs that sums over tokens.
#pragma once

#include <dsv3/op/quant/tile_quantizer.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// The weight gradient dw = dyᵀ · x sums over tokens, and matrix units read 8-bit operands along the sum: its
/// operands are dyᵀ and xᵀ, in tiles of 128 tokens of one channel (report, section 3.3.2).
///   forward   t = quantised xᵀ
///   both      the same in one pass with y = quantised x, tiles of one token
///   retile    t from stored y: values y · scale, exact in float where the scales are powers of two, in new
///             tiles
/// Tokens of different groups share no tile: tile i of group g is column groups.first_tile(g) + i of t's
/// scales. Of t the columns of live rows are written, and the scales of their tiles.
template <class From, class Element>
struct transposing_quantizer {
  struct forward_args {
    static constexpr const char* name = "transposing_quantizer.forward";
    view<const From, 2> x;             // [tokens, channels]
    scaled_view<Element, row_tile> t;  // [channels, tokens], scales [channels, groups.tiles(tokens)]  written
    scale_kind scales = scale_kind::real;
    scale_group group = scale_group::tile;
    row_groups groups = {};
    status check() const;
    void outputs(auto&& visit) const { visit("values", t.values), visit("scales", t.scales); }
  };

  struct both_args {
    static constexpr const char* name = "transposing_quantizer.both";
    view<const From, 2> x;             // [tokens, channels]
    scaled_view<Element, row_tile> y;  // [tokens, channels]                    live rows written
    scaled_view<Element, row_tile> t;  // as forward's                          written
    scale_kind scales = scale_kind::real;
    scale_group group = scale_group::tile;
    row_groups groups = {};
    status check() const;
    void outputs(auto&& visit) const {
      visit("values", y.values), visit("scales", y.scales);
      visit("transposed values", t.values), visit("transposed scales", t.scales);
    }
  };

  struct retile_args {
    static constexpr const char* name = "transposing_quantizer.retile";
    scaled_view<const Element, row_tile> y;  // [tokens, channels]
    scaled_view<Element, row_tile> t;        // as forward's                    written
    scale_kind scales = scale_kind::power_of_two;
    scale_group group = scale_group::tile;
    row_groups groups = {};
    status check() const;
    void outputs(auto&& visit) const { visit("values", t.values), visit("scales", t.scales); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void both(Ctx&, const both_args&);
  template <execution_context Ctx>
  static void retile(Ctx&, const retile_args&);
};

namespace detail {

template <class From, class Element>
void match_transposed(requirements& need, const char* name, const view<From, 2>& x,
                      const scaled_view<Element, row_tile>& t, const row_groups& groups) {
  need.equal("t", "rows", t.extent(0), "the tokens' channels", x.extent(1))
      .equal("t", "columns", t.extent(1), "the rows", x.extent(0))
      .equal("t's scales", "rows", t.scales.extent(0), "t", t.extent(0))
      .equal("t's scales", "columns", t.scales.extent(1), "the tiles", groups.tiles(x.extent(0)))
      .present(name, x)
      .present("t", t.values)
      .present("t's scales", t.scales);
}

}  // namespace detail

template <class From, class Element>
status transposing_quantizer<From, Element>::forward_args::check() const {
  requirements need{name};
  detail::match_transposed(need, "x", x, t, groups);
  return need.verdict();
}
template <class From, class Element>
status transposing_quantizer<From, Element>::both_args::check() const {
  requirements need{name};
  detail::match_tiles(need, "x", x, "y", y);
  detail::match_transposed(need, "x", x, t, groups);
  return need.verdict();
}
template <class From, class Element>
status transposing_quantizer<From, Element>::retile_args::check() const {
  requirements need{name};
  detail::match_transposed(need, "y", y.values, t, groups);
  need.equal("y's scales", "rows", y.scales.extent(0), "y", y.extent(0))
      .equal("y's scales", "columns", y.scales.extent(1), "the tiles", ceil_div(y.extent(1), 128))
      .present("y's scales", y.scales);
  return need.verdict();
}

template <class From, class Element>
template <execution_context Ctx>
void transposing_quantizer<From, Element>::forward(Ctx& ctx, const forward_args& args) {
  invoke<transposing_quantizer>(ctx, args);
}
template <class From, class Element>
template <execution_context Ctx>
void transposing_quantizer<From, Element>::both(Ctx& ctx, const both_args& args) {
  invoke<transposing_quantizer>(ctx, args);
}
template <class From, class Element>
template <execution_context Ctx>
void transposing_quantizer<From, Element>::retile(Ctx& ctx, const retile_args& args) {
  invoke<transposing_quantizer>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
