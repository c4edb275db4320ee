// SPDX-License-Identifier: MIT
// AdamW over a tensor, or many at once, moments in the precision's type (report, sections 3.3.3 and 4.2).
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>

#include <array>
#include <cmath>
#include <span>
#include <string>

namespace dsv3::inline DSV3_ABI {

struct adamw_config {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;

  /// The three numbers that are other ones at every step, counted from 1: the learning rate, and what makes
  /// up for moments that began at zero, 1 / (1 − β^step) of either.
  std::array<double, 3> pace(double learning_rate, index_t step) const {
    if (step < 1) raise("adamw: step " + std::to_string(step) + " found, steps are counted from 1");
    const auto unbias = [step](double beta) { return 1 / (1 - std::pow(beta, static_cast<double>(step))); };
    return {learning_rate, unbias(beta1), unbias(beta2)};
  }

  friend bool operator==(const adamw_config&, const adamw_config&) = default;
};

namespace op {

/// With ĝ = g · scale[0], p the master weight, (learning_rate, 1 / (1 − β1^step), 1 / (1 − β2^step)) = pace,
/// all in the master's type:
///   m = β1 m + (1 − β1) ĝ          v = β2 v + (1 − β2) ĝ²                  stored in the moment's type
///   p −= learning_rate · ((m / (1 − β1^step)) / (sqrt(v / (1 − β2^step)) + ε) + weight_decay · p)
///   w = Weight(p)
/// The update reads the moments as they are stored. A scale that is not finite leaves everything as it is: a
/// step with a bad gradient changes nothing, without the host having to look.
template <precision P, class Weight = weight<P>>
struct adamw {
  struct step_args {
    static constexpr const char* name = "adamw.step";
    view<const gradient<P>, 1> g;  // [n]    the gradient
    view<const double, 1> scale;   // [1]    the clip factor
    view<master<P>, 1> p;          // [n]    moved
    view<Weight, 1> w;             // [n]    the weight forward reads, written; may be p
    view<moment<P>, 1> m;          // [n]    moved
    view<moment<P>, 1> v;          // [n]    moved
    adamw_config config;
    view<const double, 1> pace;  // [3]    config.pace(learning rate, step); where the data lies, so that a
                                 //        recorded step can be repeated with the next one's
    status check() const {
      return requirements{name}
          .equal("p", "elements", p.extent(0), "g", g.extent(0))
          .equal("w", "elements", w.extent(0), "g", g.extent(0))
          .equal("m", "elements", m.extent(0), "g", g.extent(0))
          .equal("v", "elements", v.extent(0), "g", g.extent(0))
          .equal("scale", "elements", scale.extent(0), "a scalar", 1)
          .equal("pace", "elements", pace.extent(0), "config.pace", 3)
          .present("g", g)
          .present("p", p)
          .present("w", w)
          .present("m", m)
          .present("v", v)
          .present("scale", scale)
          .present("pace", pace)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("p", p), visit("w", w), visit("m", m), visit("v", v); }
  };

  /// What step_all moves of one parameter: the fields of step_args.
  struct tensor {
    view<const gradient<P>, 1> g;
    view<master<P>, 1> p;
    view<Weight, 1> w;
    view<moment<P>, 1> m, v;
    bool decays = true;  // or its weight_decay is 0
  };
  struct step_all_args {
    static constexpr const char* name = "adamw.step_all";
    std::span<const tensor> tensors;  // the list itself lies on the host
    view<const double, 1> scale;      // [1]
    adamw_config config;
    view<const double, 1> pace;  // [3]

    step_args one(const tensor& t) const {
      adamw_config own = config;
      if (!t.decays) own.weight_decay = 0;
      return {.g = t.g, .scale = scale, .p = t.p, .w = t.w, .m = t.m, .v = t.v, .config = own, .pace = pace};
    }
    status check() const {
      for (std::size_t i = 0; i < tensors.size(); ++i)
        if (const status bad = one(tensors[i]).check(); !bad)
          return status{std::string(name) + ": of tensor " + std::to_string(i) + ", " + bad.message()};
      return {};
    }
    void outputs(auto&& visit) const {
      for (const tensor& t : tensors) one(t).outputs(visit);
    }
  };

  template <execution_context Ctx>
  static void step(Ctx&, const step_args&);
  template <execution_context Ctx>
  static void step_all(Ctx&, const step_all_args&);
};

template <precision P, class Weight>
template <execution_context Ctx>
void adamw<P, Weight>::step(Ctx& ctx, const step_args& args) {
  invoke<adamw>(ctx, args);
}

template <precision P, class Weight>
template <execution_context Ctx>
void adamw<P, Weight>::step_all(Ctx& ctx, const step_all_args& args) {
  invoke<adamw>(ctx, args);
}

}  // namespace op
}  // namespace dsv3::inline DSV3_ABI
