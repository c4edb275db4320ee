// SPDX-License-Identifier: MIT
// One product per expert over ragged rows, and its two gradients.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/op/linear/store.hpp>
#include <dsv3/tensor/ragged.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// For every expert e over its rows X_e, Y_e:
///   Y_e = X_e · w_eᵀ
/// Backward:  dX_e = dY_e · w_e          dw_e += dY_eᵀ · X_e
/// An expert without rows leaves its gradient as it is where gradients are added to, which costs nothing, and
/// makes it zero where they are written. Padding rows are neither read nor written.
/// Contiguous and masked expert layouts differ only in the offsets.
template <precision P>
struct grouped_gemm {
  struct forward_args {
    static constexpr const char* name = "grouped_gemm.forward";
    ragged_view<const activation<P>> x;  // rows [capacity, in]
    view<const weight<P>, 3> w;          // [experts, out, in]
    ragged_view<activation<P>> y;        // rows [capacity, out]     live rows written
    status check() const {
      return requirements{name}
          .equal("w", "experts", w.extent(0), "x as groups", x.groups())
          .equal("w", "columns", w.extent(2), "x", x.width())
          .equal("y", "groups", y.groups(), "x", x.groups())
          .equal("y", "columns", y.width(), "w as rows", w.extent(1))
          .equal("y", "rows", y.rows.extent(0), "x", x.rows.extent(0))
          .present("x", x.rows)
          .present("w", w)
          .present("y", y.rows)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("y", y.rows); }
  };

  struct backward_data_args {
    static constexpr const char* name = "grouped_gemm.backward_data";
    ragged_view<const activation<P>> dy;  // rows [capacity, out]
    view<const weight<P>, 3> w;           // [experts, out, in]
    ragged_view<activation<P>> dx;        // rows [capacity, in]      live rows written
    status check() const {
      return requirements{name}
          .equal("w", "experts", w.extent(0), "dy as groups", dy.groups())
          .equal("dy", "columns", dy.width(), "w as rows", w.extent(1))
          .equal("dx", "groups", dx.groups(), "dy", dy.groups())
          .equal("dx", "columns", dx.width(), "w", w.extent(2))
          .equal("dx", "rows", dx.rows.extent(0), "dy", dy.rows.extent(0))
          .present("dy", dy.rows)
          .present("w", w)
          .present("dx", dx.rows)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("dx", dx.rows); }
  };

  struct backward_weights_args {
    static constexpr const char* name = "grouped_gemm.backward_weights";
    ragged_view<const activation<P>> dy;  // rows [capacity, out]
    ragged_view<const activation<P>> x;   // rows [capacity, in]
    view<gradient<P>, 3> dw;              // [experts, out, in]       added to, or written
    store into = store::add;
    status check() const {
      return requirements{name}
          .equal("dw", "experts", dw.extent(0), "dy as groups", dy.groups())
          .equal("x", "groups", x.groups(), "dy", dy.groups())
          .equal("dw", "rows", dw.extent(1), "dy as columns", dy.width())
          .equal("dw", "columns", dw.extent(2), "x", x.width())
          .present("dy", dy.rows)
          .present("x", x.rows)
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

template <precision P>
template <execution_context Ctx>
void grouped_gemm<P>::forward(Ctx& ctx, const forward_args& args) {
  invoke<grouped_gemm>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void grouped_gemm<P>::backward_data(Ctx& ctx, const backward_data_args& args) {
  invoke<grouped_gemm>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void grouped_gemm<P>::backward_weights(Ctx& ctx, const backward_weights_args& args) {
  invoke<grouped_gemm>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
