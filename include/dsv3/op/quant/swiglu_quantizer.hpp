// SPDX-License-Identifier: MIT
// SwiGLU whose output is the down projection's 8-bit operand.
#pragma once

#include <dsv3/op/expert/swiglu.hpp>
#include <dsv3/op/quant/tile_quantizer.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// tile_quantizer::forward of swiglu::forward's output, bit for bit, without that output in memory.
template <precision P, class Element = fp8_e4m3>
struct swiglu_quantizer {
  struct forward_args {
    static constexpr const char* name = "swiglu_quantizer.forward";
    view<const activation<P>, 2> gate_up;          // [rows, 2 * inner]
    scaled_view<Element, row_tile> y;              // [rows, inner]      live rows written
    view<const accumulator<P>, 1> row_gates = {};  // [rows]             none when empty
    scale_kind scales = scale_kind::real;
    row_groups groups = {};
    status check() const {
      requirements need{name};
      need.equal("y", "rows", y.extent(0), "gate_up", gate_up.extent(0))
          .equal("gate_up", "columns", gate_up.extent(1), "twice y", 2 * y.extent(1))
          .equal("scales", "rows", y.scales.extent(0), "y", y.extent(0))
          .equal("scales", "columns", y.scales.extent(1), "the tiles", ceil_div(y.extent(1), 128))
          .present("gate_up", gate_up)
          .present("y", y.values)
          .present("scales", y.scales);
      if (!row_gates.empty()) need.equal("row_gates", "rows", row_gates.extent(0), "y", y.extent(0));
      return need.verdict();
    }
    void outputs(auto&& visit) const { visit("values", y.values), visit("scales", y.scales); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
};

template <precision P, class Element>
template <execution_context Ctx>
void swiglu_quantizer<P, Element>::forward(Ctx& ctx, const forward_args& args) {
  invoke<swiglu_quantizer>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
