// SPDX-License-Identifier: MIT
// AdamW over matrices whose weights are 8-bit tiles.
#pragma once

#include <dsv3/number/fp8.hpp>
#include <dsv3/op/optim/adamw.hpp>
#include <dsv3/op/quant/tile_quantizer.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// adamw::step, and tile_quantizer::forward of each matrix that p then is, bit for bit, without reading p
/// again. A scale that is not finite leaves everything as it is.
template <precision P, class Element = fp8_e4m3>
struct adamw_quantizer {
  struct step_args {
    static constexpr const char* name = "adamw_quantizer.step";
    view<const gradient<P>, 1> g;           // [n]    the gradient
    view<const double, 1> scale;            // [1]    the clip factor
    view<master<P>, 1> p;                   // [n]    moved
    scaled_view<Element, block_tile, 3> w;  // [matrices, rows, columns], n numbers in all; written
    view<moment<P>, 1> m;                   // [n]    moved
    view<moment<P>, 1> v;                   // [n]    moved
    adamw_config config;
    view<const double, 1> pace;  // [3]    of adamw
    scale_kind scales = scale_kind::real;

    /// The same without codes.
    typename adamw<P, master<P>>::step_args plain() const {
      return {.g = g, .scale = scale, .p = p, .w = p, .m = m, .v = v, .config = config, .pace = pace};
    }
    status check() const {
      if (const status found = plain().check(); !found.message().empty()) return found;
      return requirements{name}
          .equal("w", "elements", w.values.size(), "p", p.extent(0))
          .equal("scales", "matrices", w.scales.extent(0), "w", w.extent(0))
          .equal("scales", "rows", w.scales.extent(1), "the tiles", ceil_div(w.extent(1), 128))
          .equal("scales", "columns", w.scales.extent(2), "the tiles", ceil_div(w.extent(2), 128))
          .present("w", w.values)
          .present("scales", w.scales)
          .verdict();
    }
    void outputs(auto&& visit) const {
      visit("p", p), visit("m", m), visit("v", v), visit("values", w.values), visit("scales", w.scales);
    }
  };

  template <execution_context Ctx>
  static void step(Ctx&, const step_args&);
};

template <precision P, class Element>
template <execution_context Ctx>
void adamw_quantizer<P, Element>::step(Ctx& ctx, const step_args& args) {
  invoke<adamw_quantizer>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
