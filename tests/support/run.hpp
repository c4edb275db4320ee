// SPDX-License-Identifier: MIT
// Runs operations the way a careful caller does: with exactly the scratch that was measured.
#pragma once

#include <dsv3/exec/measure.hpp>

#include <doctest/doctest.h>

namespace support {

/// work(ctx) on `threads` threads with exactly the scratch bytes that measure() finds for it. `work` runs
/// twice, the first time without computing, so it must not change anything itself.
template <class Work>
void run(int threads, Work&& work) {
  dsv3::host_memory memory;
  dsv3::cpu_context<> ctx{.threads = threads};
  const std::size_t bytes = dsv3::measure(ctx, work);
  ctx.scratch = dsv3::scratch_arena{memory, bytes};
  work(ctx);
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
