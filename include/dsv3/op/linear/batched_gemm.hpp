// SPDX-License-Identifier: MIT
// One product per head: what absorbs an up-projection into a query, and what applies one to a result.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// forward:     y[t,h] = x[t,h] · w[h]ᵀ        w[h] is [out, in], as a linear layer stores it
/// transposed:  y[t,h] = x[t,h] · w[h]         w[h] is [in, out]
/// Sums run in the accumulator. Views need not be gapless: heads may lie inside wider rows.
template <precision P>
struct batched_gemm {
  struct forward_args {
    static constexpr const char* name = "batched_gemm.forward";
    view<const activation<P>, 3> x;  // [tokens, heads, in]
    view<const weight<P>, 3> w;      // [heads, out, in]
    view<activation<P>, 3> y;        // [tokens, heads, out]    written
    status check() const {
      return requirements{name}
          .equal("w", "heads", w.extent(0), "x", x.extent(1))
          .equal("w", "columns", w.extent(2), "x", x.extent(2))
          .equal("y", "tokens", y.extent(0), "x", x.extent(0))
          .equal("y", "heads", y.extent(1), "x", x.extent(1))
          .equal("y", "columns", y.extent(2), "w as rows", w.extent(1))
          .present("x", x)
          .present("w", w)
          .present("y", y)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  struct transposed_args {
    static constexpr const char* name = "batched_gemm.transposed";
    view<const activation<P>, 3> x;  // [tokens, heads, in]
    view<const weight<P>, 3> w;      // [heads, in, out]
    view<activation<P>, 3> y;        // [tokens, heads, out]    written
    status check() const {
      return requirements{name}
          .equal("w", "heads", w.extent(0), "x", x.extent(1))
          .equal("w", "rows", w.extent(1), "x as columns", x.extent(2))
          .equal("y", "tokens", y.extent(0), "x", x.extent(0))
          .equal("y", "heads", y.extent(1), "x", x.extent(1))
          .equal("y", "columns", y.extent(2), "w", w.extent(2))
          .present("x", x)
          .present("w", w)
          .present("y", y)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void transposed(Ctx&, const transposed_args&);
};

template <precision P>
template <execution_context Ctx>
void batched_gemm<P>::forward(Ctx& ctx, const forward_args& args) {
  invoke<batched_gemm>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void batched_gemm<P>::transposed(Ctx& ctx, const transposed_args& args) {
  invoke<batched_gemm>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
