// SPDX-License-Identifier: MIT
// The norm of all gradients together and the factor that clips it.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>

#include <span>
#include <string>

namespace dsv3::inline DSV3_ABI::op {

/// accumulate:  sum += Σ x²                             in double, in a fixed order; accumulate_all: of many
///                                                      tensors at once
/// finish:      norm = sqrt(sum),   scale = min(1, limit / (norm + 1e-6))
/// A norm that is not finite gives a scale that is not finite, which the optimiser takes as "change nothing";
/// so does a number of `finite`.
template <class Element>
struct global_norm {
  struct accumulate_args {
    static constexpr const char* name = "global_norm.accumulate";
    view<const Element, 1> x;  // [n]
    view<double, 1> sum;       // [1]    added to
    status check() const {
      return requirements{name}
          .equal("sum", "elements", sum.extent(0), "a scalar", 1)
          .present("x", x)
          .present("sum", sum)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("sum", sum); }
  };

  struct accumulate_all_args {
    static constexpr const char* name = "global_norm.accumulate_all";
    std::span<const view<const Element, 1>> tensors;  // [n] each; the list itself lies on the host
    view<double, 1> sum;                              // [1]    added to
    status check() const {
      requirements need{name};
      need.equal("sum", "elements", sum.extent(0), "a scalar", 1).present("sum", sum);
      for (std::size_t i = 0; i < tensors.size(); ++i)
        need.present(("tensor " + std::to_string(i)).c_str(), tensors[i]);
      return need.verdict();
    }
    void outputs(auto&& visit) const { visit("sum", sum); }
  };

  struct finish_args {
    static constexpr const char* name = "global_norm.finish";
    view<const double, 1> sum;          // [1]
    double limit = 1;                   // largest norm that is left as it is
    view<const double, 1> finite = {};  // [any]  what must be finite besides the norm: the losses
    view<double, 1> norm;               // [1]    written
    view<double, 1> scale;              // [1]    written
    status check() const {
      return requirements{name}
          .that(limit > 0, "the limit must be positive")
          .equal("norm", "elements", norm.extent(0), "a scalar", 1)
          .equal("scale", "elements", scale.extent(0), "a scalar", 1)
          .present("sum", sum)
          .present("norm", norm)
          .present("scale", scale)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("norm", norm), visit("scale", scale); }
  };

  template <execution_context Ctx>
  static void accumulate(Ctx&, const accumulate_args&);
  template <execution_context Ctx>
  static void accumulate_all(Ctx&, const accumulate_all_args&);
  template <execution_context Ctx>
  static void finish(Ctx&, const finish_args&);
};

template <class Element>
template <execution_context Ctx>
void global_norm<Element>::accumulate(Ctx& ctx, const accumulate_args& args) {
  invoke<global_norm>(ctx, args);
}
template <class Element>
template <execution_context Ctx>
void global_norm<Element>::accumulate_all(Ctx& ctx, const accumulate_all_args& args) {
  invoke<global_norm>(ctx, args);
}
template <class Element>
template <execution_context Ctx>
void global_norm<Element>::finish(Ctx& ctx, const finish_args& args) {
  invoke<global_norm>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
