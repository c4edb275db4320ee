// SPDX-License-Identifier: MIT
// Tasks on several threads, for work on text: whoever is free takes the next one.
#pragma once

#include <dsv3/base/config.hpp>
#include <dsv3/base/index.hpp>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Runs task(slot, t) for every t in [0, count) on up to `threads` threads; `slot`, below max(threads, 1),
/// belongs to one thread at a time. The first exception reaches the caller when nobody is at work any more;
/// tasks that have not begun then stay undone.
template <class Task>
void parallel_tasks(int threads, index_t count, Task&& task) {
  std::atomic<index_t> taken = 0;
  std::exception_ptr failure;
  std::mutex failing;
  const auto work = [&](index_t slot) {
    try {
      for (index_t t; (t = taken++) < count;) task(slot, t);
    } catch (...) {
      taken = count;
      const std::lock_guard lock{failing};
      if (!failure) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;
    for (index_t slot = 1; slot < std::min<index_t>(threads, count); ++slot) others.emplace_back(work, slot);
    work(0);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace dsv3::inline DSV3_ABI
