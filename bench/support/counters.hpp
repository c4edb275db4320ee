// SPDX-License-Identifier: MIT
// What a bench reports beside its time: the rate, and the rate's share of the limit measured in the same process.
#pragma once

#include <support/limits.hpp>

#include <benchmark/benchmark.h>

#include <map>

namespace support {

namespace detail {
// Each limit is measured once per thread count.
template <double (*Limit)(int)>
double measured_once(int threads) {
  static std::map<int, double> known;
  const auto found = known.find(threads);
  return found != known.end() ? found->second : known[threads] = Limit(threads);
}

inline void count(benchmark::State& state, const char* rate, const char* share, double amount, double limit) {
  using benchmark::Counter;
  state.counters[rate] = Counter(amount, Counter::kIsIterationInvariantRate);
  state.counters[share] = Counter(amount / limit, Counter::kIsIterationInvariantRate);
}
}  // namespace detail

/// One and two threads (the bench's argument), by the clock on the wall.
inline void on_threads(benchmark::internal::Benchmark* bench) { bench->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime(); }

/// An operation whose limit is memory: `bytes` read and written by one iteration. A share above 1 means that the
/// tensors stay in a cache.
inline void count_bytes(benchmark::State& state, double bytes, int threads) {
  detail::count(state, "bytes/s", "of_copy", bytes, detail::measured_once<copy_bandwidth>(threads));
}

/// An operation whose limit is arithmetic: floating-point operations of one iteration.
inline void count_flops(benchmark::State& state, double flops, int threads) {
  detail::count(state, "FLOP/s", "of_sgemm", flops, detail::measured_once<matrix_peak>(threads));
}

}  // namespace support
