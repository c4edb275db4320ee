// SPDX-License-Identifier: MIT
// Join two streams: the residual connection and its gradient.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// y = a + b, added in the accumulator and rounded once.
template <precision P>
struct add {
  struct forward_args {
    static constexpr const char* name = "add";
    view<const activation<P>, 2> a;  // [tokens, width]
    view<const activation<P>, 2> b;  // [tokens, width]
    view<activation<P>, 2> y;        // [tokens, width]    written; may be a or b
    status check() const {
      return requirements{name}
          .equal("b", "tokens", b.extent(0), "a", a.extent(0))
          .equal("b", "columns", b.extent(1), "a", a.extent(1))
          .equal("y", "tokens", y.extent(0), "a", a.extent(0))
          .equal("y", "columns", y.extent(1), "a", a.extent(1))
          .present("a", a)
          .present("b", b)
          .present("y", y)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
};

template <precision P>
template <execution_context Ctx>
void add<P>::forward(Ctx& ctx, const forward_args& args) {
  invoke<add>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
