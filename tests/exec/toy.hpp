// SPDX-License-Identifier: MIT
// Two operations small enough to see through, with bodies on backends of their own: what dispatch does to
// them is what it does to every operation.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/tensor/view.hpp>

namespace toy {

using dsv3::index_t;
using dsv3::view;

struct host {};  // has bodies for both operations
struct child {
  using parent = host;
};  // replaces one of them
struct grandchild {
  using parent = child;
};
struct stranger {};  // has none

/// y += factor * x, through a copy in scratch.
struct accumulate {
  struct forward_args {
    static constexpr const char* name = "accumulate.forward";
    view<const double, 1> x;  // [n]
    view<double, 1> y;        // [n]   added to
    double factor = 1;
    dsv3::status check() const {
      return dsv3::requirements{name}.equal("y", "elements", y.extent(0), "x", x.extent(0)).verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };
  template <dsv3::execution_context Ctx>
  static void forward(Ctx& ctx, const forward_args& args) {
    dsv3::invoke<accumulate>(ctx, args);
  }
};

/// y = -x; needs no scratch.
struct negate {
  struct forward_args {
    static constexpr const char* name = "negate.forward";
    view<const double, 1> x;
    view<double, 1> y;
    dsv3::status check() const { return {}; }
    void outputs(auto&& visit) const { visit("y", y); }
  };
  template <dsv3::execution_context Ctx>
  static void forward(Ctx& ctx, const forward_args& args) {
    dsv3::invoke<negate>(ctx, args);
  }
};

}  // namespace toy

template <>
struct dsv3::implementation<toy::accumulate, toy::host> {
  struct workspace {
    view<double, 1> copy;
    view<char, 1> marks;
  };
  template <class Ctx>
  static workspace scratch(const Ctx&, scratch_arena& arena, const toy::accumulate::forward_args& args) {
    return {arena.tensor<double>(args.x.extent(0)), arena.tensor<char>(args.x.extent(0))};
  }
  template <class Ctx>
  static void run(Ctx& ctx, const toy::accumulate::forward_args& args) {
    const auto work = scratch(ctx, ctx.scratch, args);
    for (index_t i = 0; i < args.x.extent(0); ++i) work.copy(i) = args.x(i), work.marks(i) = 1;
    for (index_t i = 0; i < args.x.extent(0); ++i) args.y(i) += work.marks(i) * args.factor * work.copy(i);
  }
};

template <>
struct dsv3::implementation<toy::negate, toy::host> {
  template <class Ctx>
  static void run(Ctx&, const toy::negate::forward_args& args) {
    for (index_t i = 0; i < args.x.extent(0); ++i) args.y(i) = -args.x(i);
  }
};

/// The child's accumulate is wrong from element 3 on, in one place: what `verify` has to find.
template <>
struct dsv3::implementation<toy::accumulate, toy::child> : dsv3::implementation<toy::accumulate, toy::host> {
  template <class Ctx>
  static void run(Ctx& ctx, const toy::accumulate::forward_args& args) {
    implementation<toy::accumulate, toy::host>::run(ctx, args);
    if (args.y.extent(0) > 3) args.y(3) += 0.5;
  }
};
