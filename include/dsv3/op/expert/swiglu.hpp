// SPDX-License-Identifier: MIT
// SwiGLU, with the gate of the expert folded in.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::op {

/// With (g, u) the left and right half of a row and w its gate (1 where there are none):
///   y = w · g · sigmoid(g) · u
/// Backward, with σ = sigmoid(g), a = g σ u:
///   dg = w · dy · u · σ (1 + g (1 − σ))        du = w · dy · g σ        d_row_gate = Σ dy · a
/// Folding w here makes combine a plain sum and needs no copy of the expert's output for the gate's gradient.
/// Rows whose token is -1 are padding: neither read nor written.
template <precision P>
struct swiglu {
  struct forward_args {
    static constexpr const char* name = "swiglu.forward";
    view<const activation<P>, 2> gate_up;          // [rows, 2 * inner]
    view<activation<P>, 2> y;                      // [rows, inner]      live rows written
    view<const accumulator<P>, 1> row_gates = {};  // [rows]             w; none when empty
    view<const std::int32_t, 1> token_of = {};     // [rows]             -1 for padding; all live when empty
    status check() const {
      requirements need{name};
      need.equal("y", "rows", y.extent(0), "gate_up", gate_up.extent(0))
          .equal("gate_up", "columns", gate_up.extent(1), "twice y", 2 * y.extent(1))
          .present("gate_up", gate_up)
          .present("y", y);
      if (!row_gates.empty()) need.equal("row_gates", "rows", row_gates.extent(0), "y", y.extent(0));
      if (!token_of.empty()) need.equal("token_of", "rows", token_of.extent(0), "y", y.extent(0));
      return need.verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  struct backward_args {
    static constexpr const char* name = "swiglu.backward";
    view<const activation<P>, 2> dy;               // [rows, inner]
    view<const activation<P>, 2> gate_up;          // [rows, 2 * inner]
    view<activation<P>, 2> d_gate_up;              // [rows, 2 * inner]  live rows written; may be gate_up
    view<const accumulator<P>, 1> row_gates = {};  // [rows]
    view<accumulator<P>, 1> d_row_gates = {};      // [rows]             live rows written when not empty
    view<const std::int32_t, 1> token_of = {};     // [rows]
    status check() const {
      requirements need{name};
      need.equal("gate_up", "rows", gate_up.extent(0), "dy", dy.extent(0))
          .equal("gate_up", "columns", gate_up.extent(1), "twice dy", 2 * dy.extent(1))
          .equal("d_gate_up", "rows", d_gate_up.extent(0), "dy", dy.extent(0))
          .equal("d_gate_up", "columns", d_gate_up.extent(1), "gate_up", gate_up.extent(1))
          .present("dy", dy)
          .present("gate_up", gate_up)
          .present("d_gate_up", d_gate_up);
      if (!row_gates.empty()) need.equal("row_gates", "rows", row_gates.extent(0), "dy", dy.extent(0));
      if (!d_row_gates.empty()) need.equal("d_row_gates", "rows", d_row_gates.extent(0), "dy", dy.extent(0));
      if (!token_of.empty()) need.equal("token_of", "rows", token_of.extent(0), "dy", dy.extent(0));
      return need.verdict();
    }
    void outputs(auto&& visit) const { visit("d_gate_up", d_gate_up), visit("d_row_gates", d_row_gates); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void backward(Ctx&, const backward_args&);
};

template <precision P>
template <execution_context Ctx>
void swiglu<P>::forward(Ctx& ctx, const forward_args& args) {
  invoke<swiglu>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void swiglu<P>::backward(Ctx& ctx, const backward_args& args) {
  invoke<swiglu>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
