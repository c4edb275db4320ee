// SPDX-License-Identifier: MIT
// Runs operations the way a careful caller does: with exactly the scratch that was measured.
#pragma once

#include <dsv3/exec/measure.hpp>

#include <doctest/doctest.h>

#include <string>
#include <type_traits>

// One source tests both wings: where DSV3_TEST_BACKEND names a backend of GPUs, `run` runs there. All memory
// of such a program can be reached by host and GPU, see support/cuda_main.cpp.
#if defined(DSV3_TEST_BACKEND)
#include <dsv3/cuda/host/device.cuh>

#include <support/share.hpp>
#endif

namespace support {

#if defined(DSV3_TEST_BACKEND)
inline dsv3::cuda::device& gpu() {
  static dsv3::cuda::device only;
  return only;
}
/// The context that tests run on; a GPU has no `threads` to choose.
inline auto context(int) {
  share.require();
  dsv3::cuda_context<dsv3::backend::DSV3_TEST_BACKEND> ctx{};
  dsv3::state_of<dsv3::backend::cuda>(ctx.state).device = &gpu();
  return ctx;
}
inline constexpr bool on_hopper = std::is_same_v<dsv3::backend::DSV3_TEST_BACKEND, dsv3::backend::hopper>;
using scratch_memory = dsv3::cuda::device_memory;
/// For bundles that tests look into and operations work on: what `new` gives out, a cache line's multiple.
class reachable_memory final : public dsv3::memory_resource {
  void* obtain(std::size_t bytes) override { return ::operator new(bytes); }
  void give_back(void* block, std::size_t) noexcept override { ::operator delete(block); }
};
#else
inline auto context(int threads) { return dsv3::cpu_context<>{.threads = threads}; }
inline constexpr bool on_hopper = false;
using scratch_memory = dsv3::host_memory;
using reachable_memory = dsv3::host_memory;
#endif

/// work(ctx) on `threads` threads with exactly the scratch bytes that measure() finds for it, until it is
/// done. `work` runs twice, the first time without computing, so it must not change anything itself.
template <class Work>
void run(int threads, Work&& work) {
  scratch_memory memory;
  auto ctx = context(threads);
  const std::size_t bytes = dsv3::measure(ctx, work);
  ctx.scratch = dsv3::scratch_arena{memory, bytes};
  work(ctx);
  synchronize(ctx);
  CHECK(ctx.scratch.peak() == bytes);
}

/// The sentence that `act` raises; empty when it raises none.
template <class Act>
std::string raised(Act&& act) {
  try {
    act();
  } catch (const dsv3::error& failure) {
    return failure.what();
  }
  return {};
}

}  // namespace support
