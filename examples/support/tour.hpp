// SPDX-License-Identifier: MIT
// Where the stops of the tour compute: on the processor; or, where a source is compiled as CUDA with
// DSV3_TOUR_ON_GPU, on this machine's GPU.
#pragma once

#if defined(DSV3_TOUR_ON_GPU)
#include <dsv3/cuda.cuh>

#include <cstdio>
#include <cstdlib>
#else
#include <dsv3/cpu.hpp>
#endif

#include <dsv3/exec/pooled_memory.hpp>

#include <initializer_list>

namespace tour {

using dsv3::index_t;

/// Memory that host and operations reach, and contexts.
class place {
 public:
#if defined(DSV3_TOUR_ON_GPU)
  using backend = dsv3::backend::cuda;
  dsv3::cuda::shared_memory memory;

  template <class Backend = backend>
  dsv3::cuda_context<Backend> context() {
    dsv3::cuda_context<Backend> ctx{.stream = nullptr};
    dsv3::state_of<backend>(ctx.state).device = &gpu_;
    return ctx;
  }
#else
  using backend = dsv3::backend::cpu;
  dsv3::host_memory memory;

  template <class Backend = backend>
  dsv3::cpu_context<Backend> context() {
    return {.threads = 2};
  }
#endif

  /// What the host fills and operations read, or the other way round: after synchronize(ctx).
  template <class T>
  dsv3::shared_array<T> array(std::initializer_list<T> values) {
    return {values, memory};
  }
  template <class T>
  dsv3::shared_array<T> array(index_t count, T value = {}) {
    return dsv3::shared_array<T>(static_cast<std::size_t>(count), value, memory);
  }

#if defined(DSV3_TOUR_ON_GPU)
 private:
  // On a machine without a GPU a stop is skipped, not failed.
  static dsv3::cuda::device first_gpu() try {
    return dsv3::cuda::device{};
  } catch (const dsv3::error& refusal) {
    std::printf("skipped: %s\n", refusal.what());
    std::exit(77);
  }
  dsv3::cuda::device gpu_ = first_gpu();
#endif
};

}  // namespace tour
