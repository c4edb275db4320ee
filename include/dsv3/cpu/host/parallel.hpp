// SPDX-License-Identifier: MIT
// Threads of the CPU wing. Every split is a function of (count, threads) alone, so results are too.
#pragma once

#include <dsv3/base/index.hpp>

#include <algorithm>
#include <exception>

#if DSV3_OPENMP
#include <omp.h>
#endif

namespace dsv3::inline DSV3_ABI::cpu {

namespace detail {

// An exception must not leave a parallel region; the first one is kept for the caller.
template <class Work>
void guarded([[maybe_unused]] std::exception_ptr& failure, Work&& work) {
#if defined(DSV3_NO_EXCEPTIONS)
  work();
#else
  try {
    work();
  } catch (...) {
#if DSV3_OPENMP
#pragma omp critical(dsv3_parallel_failure)
#endif
    if (!failure) failure = std::current_exception();
  }
#endif
}

}  // namespace detail

/// Runs worker(slot, p) for every p in [0, parts), on up to `threads` threads. `slot`, below max(threads, 1),
/// belongs to one thread at a time: it picks the scratch a part may use, and what a part computes must not
/// depend on it. The first exception reaches the caller when no part is at work any more; parts that have not
/// begun may stay undone.
template <class Worker>
void parallel_slots([[maybe_unused]] int threads, index_t parts, Worker&& worker) {
#if DSV3_OPENMP
  if (threads > 1 && parts > 1) {
    std::exception_ptr failure;
#pragma omp parallel for num_threads(static_cast <int>(std::min <index_t>(threads, parts))) \
    schedule(dynamic, 1)
    for (index_t p = 0; p < parts; ++p) {
      detail::guarded(failure, [&] { worker(index_t{omp_get_thread_num()}, p); });
    }
    if (failure) std::rethrow_exception(failure);
    return;
  }
#endif
  for (index_t p = 0; p < parts; ++p) worker(index_t{0}, p);
}

/// Runs part(p) for every p in [0, parts), on up to `threads` threads. Part p always does the same work,
/// whichever thread takes it.
template <class Part>
void parallel_parts(int threads, index_t parts, Part&& part) {
  parallel_slots(threads, parts, [&](index_t, index_t p) { part(p); });
}

/// Splits [0, count) into one contiguous range per thread and runs body(begin, end) on each. Ranges of fewer
/// than `grain` items are not worth a thread.
template <class Body>
void parallel_ranges(int threads, index_t count, index_t grain, Body&& body) {
  const index_t parts = std::clamp<index_t>(count / std::max<index_t>(grain, 1), 1, std::max(threads, 1));
  parallel_parts(threads, parts, [&](index_t p) {
    const index_range range = split_range(count, p, parts);
    if (range.count() > 0) body(range.begin, range.end);
  });
}

}  // namespace dsv3::inline DSV3_ABI::cpu
