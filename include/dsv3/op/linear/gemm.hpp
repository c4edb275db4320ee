// SPDX-License-Identifier: MIT
// The linear layer's product and its two gradients.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/op/linear/store.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// y = x · wᵀ
/// Backward:  dx = dy · w          dw += dyᵀ · x
/// Sums run in the accumulator. Output is the element type of y and dy: the activation between layers, the
/// accumulator for logits.
template <precision P, class Output = activation<P>>
struct gemm {
  struct forward_args {
    static constexpr const char* name = "gemm.forward";
    view<const activation<P>, 2> x;  // [tokens, in]
    view<const weight<P>, 2> w;      // [out, in]
    view<Output, 2> y;               // [tokens, out]     written, or added to
    store into = store::write;
    status check() const {
      return requirements{name}
          .equal("w", "columns", w.extent(1), "x", x.extent(1))
          .equal("y", "tokens", y.extent(0), "x", x.extent(0))
          .equal("y", "columns", y.extent(1), "w as rows", w.extent(0))
          .present("x", x)
          .present("w", w)
          .present("y", y)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  struct backward_data_args {
    static constexpr const char* name = "gemm.backward_data";
    view<const Output, 2> dy;    // [tokens, out]
    view<const weight<P>, 2> w;  // [out, in]
    view<activation<P>, 2> dx;   // [tokens, in]      written, or added to
    store into = store::write;
    status check() const {
      return requirements{name}
          .equal("dy", "columns", dy.extent(1), "w as rows", w.extent(0))
          .equal("dx", "tokens", dx.extent(0), "dy", dy.extent(0))
          .equal("dx", "columns", dx.extent(1), "w", w.extent(1))
          .present("dy", dy)
          .present("w", w)
          .present("dx", dx)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("dx", dx); }
  };

  struct backward_weights_args {
    static constexpr const char* name = "gemm.backward_weights";
    view<const Output, 2> dy;        // [tokens, out]
    view<const activation<P>, 2> x;  // [tokens, in]
    view<gradient<P>, 2> dw;         // [out, in]         added to, or written
    store into = store::add;
    status check() const {
      return requirements{name}
          .equal("dy", "tokens", dy.extent(0), "x", x.extent(0))
          .equal("dw", "rows", dw.extent(0), "dy as columns", dy.extent(1))
          .equal("dw", "columns", dw.extent(1), "x", x.extent(1))
          .present("dy", dy)
          .present("x", x)
          .present("dw", dw)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("dw", dw); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void backward_data(Ctx&, const backward_data_args&);
  template <execution_context Ctx>
  static void backward_weights(Ctx&, const backward_weights_args&);
};

template <precision P, class Output>
template <execution_context Ctx>
void gemm<P, Output>::forward(Ctx& ctx, const forward_args& args) {
  invoke<gemm>(ctx, args);
}
template <precision P, class Output>
template <execution_context Ctx>
void gemm<P, Output>::backward_data(Ctx& ctx, const backward_data_args& args) {
  invoke<gemm>(ctx, args);
}
template <precision P, class Output>
template <execution_context Ctx>
void gemm<P, Output>::backward_weights(Ctx& ctx, const backward_weights_args& args) {
  invoke<gemm>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
