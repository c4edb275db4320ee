// SPDX-License-Identifier: MIT
// The execution context: the first argument of everything that computes. Backend at compile time; threads and
// scratch at run time. There is nothing global.
#pragma once

#include <dsv3/exec/backend.hpp>
#include <dsv3/exec/scratch.hpp>

#include <concepts>

namespace dsv3::inline DSV3_ABI {

/// A context names its backend, owns scratch, and can be made again for another backend.
template <class Ctx>
concept execution_context = requires(Ctx& ctx) {
  typename Ctx::backend_type;
  { ctx.scratch } -> std::same_as<scratch_arena&>;
  ctx.template with_backend<typename Ctx::backend_type>();
};

/// Work on the host's cores.
///
///     cpu_context ctx{.threads = 8, .scratch = scratch_arena{memory, bytes}};
template <class Backend = backend::cpu>
struct cpu_context {
  using backend_type = Backend;

  int threads = 1;  // how many threads an operation may use; results depend on it, and on nothing else
  scratch_arena scratch = {};
  [[no_unique_address]] backend_state<Backend> state = {};

  /// The same threads for another backend, without scratch.
  template <class Other>
  cpu_context<Other> with_backend() const {
    return cpu_context<Other>{.threads = threads, .scratch = {}, .state = {}};
  }
};

/// Waits until the context's work is done; on the host it always is.
template <class Backend>
void synchronize(cpu_context<Backend>&) {}

}  // namespace dsv3::inline DSV3_ABI
