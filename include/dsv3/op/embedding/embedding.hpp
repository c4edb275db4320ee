// SPDX-License-Identifier: MIT
// Token ids to rows of a table, and the gradient back into it.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::op {

/// y[t] = table[ids[t]];  an id of -1 gives a zero row.
/// Backward:  dtable[ids[t]] += dy[t]      in token order, so repeated ids give the same sum every time
/// Ids below -1 or not below the vocabulary raise.
template <precision P>
struct embedding {
  struct forward_args {
    static constexpr const char* name = "embedding.forward";
    view<const std::int32_t, 1> ids;  // [tokens]
    view<const weight<P>, 2> table;   // [vocab, hidden]
    view<activation<P>, 2> y;         // [tokens, hidden]    written
    status check() const {
      return requirements{name}
          .equal("y", "tokens", y.extent(0), "ids", ids.extent(0))
          .equal("y", "columns", y.extent(1), "table", table.extent(1))
          .present("ids", ids)
          .present("table", table)
          .present("y", y)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  struct backward_args {
    static constexpr const char* name = "embedding.backward";
    view<const std::int32_t, 1> ids;  // [tokens]
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    view<gradient<P>, 2> dtable;      // [vocab, hidden]     added to
    status check() const {
      return requirements{name}
          .equal("dy", "tokens", dy.extent(0), "ids", ids.extent(0))
          .equal("dy", "columns", dy.extent(1), "dtable", dtable.extent(1))
          .present("ids", ids)
          .present("dy", dy)
          .present("dtable", dtable)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("dtable", dtable); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void backward(Ctx&, const backward_args&);
};

template <precision P>
template <execution_context Ctx>
void embedding<P>::forward(Ctx& ctx, const forward_args& args) {
  invoke<embedding>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void embedding<P>::backward(Ctx& ctx, const backward_args& args) {
  invoke<embedding>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
