// SPDX-License-Identifier: MIT
// Backend tags. A backend is a type; its parent, if it names one, lends it every body it does not have; its
// path, if it has one, is what its bodies are called where a program says which of them it runs.
#pragma once

#include <dsv3/base/config.hpp>

#include <type_traits>

namespace dsv3::inline DSV3_ABI {

namespace backend {
/// Loops and BLAS on the host.
struct cpu {
  static constexpr const char* path = "CPU";
};
/// NVIDIA GPUs from compute capability 8.0: a body for every operation.
struct cuda {
  static constexpr const char* path = "functional CUDA";
};
/// Compute capability 9.0a: bodies that ask for its matrix and copy engines; the others are those of cuda.
struct hopper {
  using parent = cuda;
  static constexpr const char* path = "Hopper's own";
};
}  // namespace backend

template <class B>
concept has_parent = requires {
  typename B::parent;
};

/// What a context carries for its backend besides stream and scratch: what it carries for the parent, if
/// there is one. Backends with more and decorators specialise it.
template <class Backend>
struct backend_state {};
template <class Backend>
  requires has_parent<Backend>
struct backend_state<Backend> {
  [[no_unique_address]] backend_state<typename Backend::parent> inner = {};
};

/// The state of one backend in that of a stack of them: the state of a decorator holds that of what it
/// decorates as `inner`, the state of a child that of its parent.
template <class Decorator, class Outermost>
auto& state_of(backend_state<Outermost>& state) {
  if constexpr (std::is_same_v<Decorator, Outermost>)
    return state;
  else
    return state_of<Decorator>(state.inner);
}

}  // namespace dsv3::inline DSV3_ABI
