// SPDX-License-Identifier: MIT
// How a contract meets its body: the heart of the library.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/exec/backend.hpp>
#include <dsv3/exec/context.hpp>

#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// The body of contract Op on Backend; specialised by the wings and by users. For each argument record it has
///
///     template <class Ctx> static void run(Ctx& ctx, const record& args);
///
/// and, where it needs scratch, the function that carves it, which `run` calls and `measure` counts:
///
///     template <class Ctx>
///     static workspace scratch(const Ctx& ctx, scratch_arena& arena, const record& args);
///
/// A body that chooses by the record whose code it runs may name what it chose, as `path_list` tells it:
///
///     static const char* path(const record& args);
///
/// Specialise before the first use: compilers remember whether a body exists.
template <class Op, class Backend>
struct implementation;

template <class Op, class Backend>
concept implements = requires {
  sizeof(implementation<Op, Backend>);
};

/// The body found by walking from a backend to its parents, and the backend that has it; void where there is
/// none.
template <class Op, class Backend>
struct nearest {
  using type = void;
  using home = void;
};
template <class Op, class Backend>
  requires implements<Op, Backend>
struct nearest<Op, Backend> {
  using type = implementation<Op, Backend>;
  using home = Backend;
};
template <class Op, class Backend>
  requires(!implements<Op, Backend> && has_parent<Backend>)
struct nearest<Op, Backend> : nearest<Op, typename Backend::parent> {};

/// Checks the record, finds the body, runs it, releases its scratch.
template <class Op, execution_context Ctx, class Args>
void invoke(Ctx& ctx, const Args& args) {
  using body = typename nearest<Op, typename Ctx::backend_type>::type;
  static_assert(!std::is_void_v<body>,
                "dsv3: this operation has no body for this backend; include the wing that brings it "
                "(dsv3/cpu.hpp or dsv3/cuda.cuh) before the first use");
  if constexpr (!std::is_void_v<body>) {
    require(args.check());
    const scratch_frame frame{ctx.scratch};
    body::run(ctx, args);
  }
}

}  // namespace dsv3::inline DSV3_ABI
