// SPDX-License-Identifier: MIT
// Cross entropy of logits and the logits' gradient. Called on chunks of tokens, so that no more than a chunk
// of logits has to exist.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::op {

/// lse[t] = ln Σ_v exp logits[t,v];  loss += scale Σ_t (lse[t] − logits[t, target])  over targets ≥ 0
/// Backward:  dlogits[t,v] = scale (exp(logits[t,v] − lse[t]) − [v = target])      zero where target is -1
/// The sum over tokens runs in double, in token order. Targets below -1 or not below the vocabulary raise.
/// Gradient is what dlogits consist of: each is computed in the accumulator and rounded once.
template <precision P, class Gradient = accumulator<P>>
struct cross_entropy {
  struct forward_args {
    static constexpr const char* name = "cross_entropy.forward";
    view<const accumulator<P>, 2> logits;  // [tokens, vocab]
    view<const std::int32_t, 1> targets;   // [tokens]        -1: ignored
    double scale = 1;                      // usually 1 / number of targets
    view<double, 1> loss;                  // [1]             added to
    view<accumulator<P>, 1> lse;           // [tokens]        written; needed by backward
    status check() const {
      return requirements{name}
          .equal("targets", "tokens", targets.extent(0), "logits", logits.extent(0))
          .equal("lse", "tokens", lse.extent(0), "logits", logits.extent(0))
          .equal("loss", "elements", loss.extent(0), "a scalar", 1)
          .present("logits", logits)
          .present("targets", targets)
          .present("lse", lse)
          .present("loss", loss)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("loss", loss), visit("lse", lse); }
  };

  struct backward_args {
    static constexpr const char* name = "cross_entropy.backward";
    view<const accumulator<P>, 2> logits;  // [tokens, vocab]
    view<const std::int32_t, 1> targets;   // [tokens]
    view<const accumulator<P>, 1> lse;     // [tokens]
    double scale = 1;                      // forward's scale times the gradient that reaches the loss
    view<Gradient, 2> dlogits;             // [tokens, vocab]   written; may be logits if of their type
    status check() const {
      return requirements{name}
          .equal("targets", "tokens", targets.extent(0), "logits", logits.extent(0))
          .equal("lse", "tokens", lse.extent(0), "logits", logits.extent(0))
          .equal("dlogits", "tokens", dlogits.extent(0), "logits", logits.extent(0))
          .equal("dlogits", "columns", dlogits.extent(1), "logits", logits.extent(1))
          .present("logits", logits)
          .present("targets", targets)
          .present("lse", lse)
          .present("dlogits", dlogits)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("dlogits", dlogits); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void backward(Ctx&, const backward_args&);
};

template <precision P, class Gradient>
template <execution_context Ctx>
void cross_entropy<P, Gradient>::forward(Ctx& ctx, const forward_args& args) {
  invoke<cross_entropy>(ctx, args);
}
template <precision P, class Gradient>
template <execution_context Ctx>
void cross_entropy<P, Gradient>::backward(Ctx& ctx, const backward_args& args) {
  invoke<cross_entropy>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
