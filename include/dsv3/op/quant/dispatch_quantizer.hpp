// SPDX-License-Identifier: MIT
// Tokens to the experts' rows in 8 bits: every token is quantised once, however many experts get it.
#pragma once

#include <dsv3/op/expert/permute.hpp>
#include <dsv3/op/quant/tile_quantizer.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// forward:  rows[row_of(t, k)] = quantised x[t], scales included: permute::dispatch after
///           tile_quantizer::forward, bit for bit. Padding rows stay untouched. With power-of-two scales,
///           what the report sends (section 3.3.3).
/// place:    the same for tokens that came in 8 bits: rows[row_of(t, k)] = x[t]
template <precision P, class Element = fp8_e4m3>
struct dispatch_quantizer {
  struct forward_args {
    static constexpr const char* name = "dispatch_quantizer.forward";
    view<const activation<P>, 2> x;  // [tokens, width]
    permutation_view plan;
    scaled_view<Element, row_tile> rows;  // [row capacity, width]    live rows written
    scale_kind scales = scale_kind::power_of_two;
    scale_group group = scale_group::tile;
    status check() const {
      return requirements{name}
          .equal("x", "tokens", x.extent(0), "plan", plan.config.tokens)
          .equal("rows", "rows", rows.extent(0), "plan", plan.config.row_capacity())
          .equal("rows", "columns", rows.extent(1), "x", x.extent(1))
          .equal("scales", "rows", rows.scales.extent(0), "rows", rows.extent(0))
          .equal("scales", "columns", rows.scales.extent(1), "the tiles", ceil_div(x.extent(1), 128))
          .present("x", x)
          .present("rows", rows.values)
          .present("scales", rows.scales)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("values", rows.values), visit("scales", rows.scales); }
  };

  struct place_args {
    static constexpr const char* name = "dispatch_quantizer.place";
    scaled_view<const Element, row_tile> x;  // [tokens, width]
    permutation_view plan;
    scaled_view<Element, row_tile> rows;  // [row capacity, width]    live rows written
    status check() const {
      const index_t tiles = ceil_div(x.extent(1), 128);
      return requirements{name}
          .equal("x", "tokens", x.extent(0), "plan", plan.config.tokens)
          .equal("rows", "rows", rows.extent(0), "plan", plan.config.row_capacity())
          .equal("rows", "columns", rows.extent(1), "x", x.extent(1))
          .equal("scales of x", "rows", x.scales.extent(0), "x", x.extent(0))
          .equal("scales of x", "columns", x.scales.extent(1), "the tiles", tiles)
          .equal("scales", "rows", rows.scales.extent(0), "rows", rows.extent(0))
          .equal("scales", "columns", rows.scales.extent(1), "the tiles", tiles)
          .present("x", x.values)
          .present("scales of x", x.scales)
          .present("rows", rows.values)
          .present("scales", rows.scales)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("values", rows.values), visit("scales", rows.scales); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void place(Ctx&, const place_args&);
};

template <precision P, class Element>
template <execution_context Ctx>
void dispatch_quantizer<P, Element>::forward(Ctx& ctx, const forward_args& args) {
  invoke<dispatch_quantizer>(ctx, args);
}
template <precision P, class Element>
template <execution_context Ctx>
void dispatch_quantizer<P, Element>::place(Ctx& ctx, const place_args& args) {
  invoke<dispatch_quantizer>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
