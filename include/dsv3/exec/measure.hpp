// SPDX-License-Identifier: MIT
// backend::measure<B>: run anything, compute nothing, learn its scratch bytes and which bodies it gets.
#pragma once

#include <dsv3/exec/paths.hpp>

#include <cstddef>

namespace dsv3::inline DSV3_ABI {

namespace backend {
/// Asks each body of B for its scratch and takes it from a counting arena.
template <class B>
struct measure {};
}  // namespace backend

template <class B>
struct backend_state<backend::measure<B>> {
  path_list* paths = nullptr;
};

template <class Op, class B>
  requires(!std::is_void_v<typename nearest<Op, B>::type>)
struct implementation<Op, backend::measure<B>> {
  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    using body = typename nearest<Op, B>::type;
    if constexpr (requires { body::scratch(ctx, ctx.scratch, args); })
      (void)body::scratch(ctx, ctx.scratch, args);
    if (ctx.state.paths != nullptr) ctx.state.paths->add(Args::name, path_of<Op, B>(args));
  }
};

/// Whether work in this context happens at all, or is only measured: what is no operation, an exchange
/// between ranks above all, asks before it acts.
template <class Ctx>
inline constexpr bool computes = true;
template <template <class> class Context, class B>
inline constexpr bool computes<Context<backend::measure<B>>> = false;

/// The exact scratch bytes that `work(probe)` takes at its peak, and into `paths` which bodies it gets. The
/// work must not read what it computes.
///
///     ctx.scratch = scratch_arena{memory, measure(ctx, [&](auto& probe) { layer.forward(probe, args); })};
template <execution_context Ctx, class Work>
std::size_t measure(const Ctx& ctx, Work&& work, path_list* paths = nullptr) {
  auto probe = ctx.template with_backend<backend::measure<typename Ctx::backend_type>>();
  probe.scratch = scratch_arena::counting();
  probe.state.paths = paths;
  work(probe);
  return probe.scratch.peak();
}

}  // namespace dsv3::inline DSV3_ABI
