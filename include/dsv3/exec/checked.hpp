// SPDX-License-Identifier: MIT
// backend::checked<B>: waits after every operation, so that an error is raised by the one that caused it.
#pragma once

#include <dsv3/exec/decorator.hpp>

namespace dsv3::inline DSV3_ABI {

namespace backend {
/// Runs the bodies of B and waits for each. What a GPU reports late is raised here with the operation's name,
/// and what was pending before as such. Waiting costs the time that work of several operations overlaps, and
/// cannot be captured in a graph: for the search of a fault.
///
///     cuda_context<backend::checked<backend::cuda>> ctx{.stream = stream, .state = {{&gpu}}};
template <class B>
struct checked {};
}  // namespace backend

template <class B>
struct backend_state<backend::checked<B>> {
  [[no_unique_address]] backend_state<B> inner = {};
};

template <class Op, class B>
  requires(!std::is_void_v<typename nearest<Op, B>::type>)
struct implementation<Op, backend::checked<B>> : detail::decorated<Op, B> {
  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    if (const status earlier = attempt([&] { synchronize(ctx); }); !earlier)
      raise(std::string("before ") + Args::name + ": " + earlier.message());
    const status own = attempt([&] {
      detail::decorated<Op, B>::body::run(ctx, args);
      synchronize(ctx);
    });
    if (own) return;
    const bool is_named = own.message().starts_with(Args::name);
    raise(is_named ? own.message() : std::string(Args::name) + ": " + own.message());
  }
};

}  // namespace dsv3::inline DSV3_ABI
