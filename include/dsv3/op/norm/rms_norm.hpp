// SPDX-License-Identifier: MIT
// RMSNorm over the last dimension, with the residual addition that precedes it.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/op/linear/store.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// s = x + residual                                (s = x where there is no residual)
/// y = s · r · gain,   r = 1 / sqrt(mean(s²) + epsilon)          one r per token
/// Backward, with g = dy · gain and ŝ = s · r:
///   ds = r · (g − ŝ · mean(g · ŝ)) + d_residual          dgain += Σ_tokens dy · ŝ
/// Statistics and products in the accumulator, rounded once. The norm reads s rounded to the activation.
template <precision P>
struct rms_norm {
  struct forward_args {
    static constexpr const char* name = "rms_norm.forward";
    view<const activation<P>, 2> x;              // [tokens, hidden]
    view<const master<P>, 1> gain;               // [hidden]
    view<activation<P>, 2> y;                    // [tokens, hidden] written; may be x
    view<accumulator<P>, 1> rstd = {};           // [tokens]         written when not empty; backward needs it
    view<const activation<P>, 2> residual = {};  // [tokens, hidden] added to x when not empty
    view<activation<P>, 2> sum = {};             // [tokens, hidden] s, written; may be x or residual
    double epsilon = 1e-6;
    status check() const;
    void outputs(auto&& visit) const { visit("y", y), visit("rstd", rstd), visit("sum", sum); }
  };

  struct backward_args {
    static constexpr const char* name = "rms_norm.backward";
    view<const activation<P>, 2> dy;               // [tokens, hidden]
    view<const activation<P>, 2> x;                // [tokens, hidden] s of forward
    view<const master<P>, 1> gain;                 // [hidden]
    view<const accumulator<P>, 1> rstd;            // [tokens]
    view<activation<P>, 2> dx = {};                // [tokens, hidden] ds, written if given; may be d_residual
    view<gradient<P>, 1> dgain = {};               // [hidden]         added to, or written, when not empty
    view<const activation<P>, 2> d_residual = {};  // [tokens, hidden] gradient reaching s from elsewhere
    store into = store::add;                       // of dgain
    status check() const;
    void outputs(auto&& visit) const { visit("dx", dx), visit("dgain", dgain); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void backward(Ctx&, const backward_args&);
};

template <precision P>
status rms_norm<P>::forward_args::check() const {
  requirements need{name};
  need.equal("gain", "columns", gain.extent(0), "x", x.extent(1))
      .equal("y", "tokens", y.extent(0), "x", x.extent(0))
      .equal("y", "columns", y.extent(1), "x", x.extent(1))
      .that(epsilon > 0, "epsilon must be positive")
      .present("x", x)
      .present("gain", gain)
      .present("y", y);
  if (!rstd.empty()) need.equal("rstd", "tokens", rstd.extent(0), "x", x.extent(0));
  if (!residual.empty() || !sum.empty())
    need.equal("residual", "tokens", residual.extent(0), "x", x.extent(0))
        .equal("residual", "columns", residual.extent(1), "x", x.extent(1))
        .equal("sum", "tokens", sum.extent(0), "x", x.extent(0))
        .equal("sum", "columns", sum.extent(1), "x", x.extent(1));
  return need.verdict();
}

template <precision P>
status rms_norm<P>::backward_args::check() const {
  requirements need{name};
  need.equal("x", "tokens", x.extent(0), "dy", dy.extent(0))
      .equal("x", "columns", x.extent(1), "dy", dy.extent(1))
      .equal("rstd", "tokens", rstd.extent(0), "dy", dy.extent(0))
      .equal("gain", "columns", gain.extent(0), "dy", dy.extent(1))
      .present("dy", dy)
      .present("x", x)
      .present("gain", gain)
      .present("rstd", rstd);
  if (!dx.empty())
    need.equal("dx", "tokens", dx.extent(0), "dy", dy.extent(0))
        .equal("dx", "columns", dx.extent(1), "dy", dy.extent(1));
  if (!dgain.empty()) need.equal("dgain", "columns", dgain.extent(0), "dy", dy.extent(1));
  if (!d_residual.empty())
    need.equal("d_residual", "tokens", d_residual.extent(0), "dy", dy.extent(0))
        .equal("d_residual", "columns", d_residual.extent(1), "dy", dy.extent(1));
  return need.verdict();
}

template <precision P>
template <execution_context Ctx>
void rms_norm<P>::forward(Ctx& ctx, const forward_args& args) {
  invoke<rms_norm>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void rms_norm<P>::backward(Ctx& ctx, const backward_args& args) {
  invoke<rms_norm>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
