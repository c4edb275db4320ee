// SPDX-License-Identifier: MIT
// backend::trace<B>: name and time every operation.
#pragma once

#include <dsv3/exec/decorator.hpp>

#include <chrono>
#include <string>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// One executed operation.
struct trace_entry {
  const char* name;  // "rms_norm.forward"
  double seconds;
};

/// What a tracing context writes to.
struct trace_log {
  std::vector<trace_entry> entries;
};

namespace backend {
/// Runs the bodies of B and logs each.
///
///     trace_log log;
///     cpu_context<backend::trace<backend::cpu>> ctx{.threads = 2, .state = {&log}};
template <class B>
struct trace {};
}  // namespace backend

template <class B>
struct backend_state<backend::trace<B>> {
  trace_log* log = nullptr;
  [[no_unique_address]] backend_state<B> inner = {};
};

template <class Op, class B>
  requires(!std::is_void_v<typename nearest<Op, B>::type>)
struct implementation<Op, backend::trace<B>> : detail::decorated<Op, B> {
  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    synchronize(ctx);
    const auto begin = std::chrono::steady_clock::now();
    detail::decorated<Op, B>::body::run(ctx, args);
    synchronize(ctx);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    trace_log* log = state_of<backend::trace<B>>(ctx.state).log;
    if (log != nullptr) log->entries.push_back({Args::name, elapsed.count()});
  }
};

}  // namespace dsv3::inline DSV3_ABI
