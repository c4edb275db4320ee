// SPDX-License-Identifier: MIT
// What a bench reports beside its time: the rate, and its share of the limit measured in the same process.
#pragma once

#include <support/limits.hpp>

#include <benchmark/benchmark.h>

namespace support {

/// One and two threads (the bench's argument), by the clock on the wall.
inline void on_threads(benchmark::internal::Benchmark* bench) {
  bench->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
}

/// An operation whose limit is memory: `bytes` read and written by one iteration. A share above 1 means that
/// the tensors stay in a cache.
inline void count_bytes(benchmark::State& state, double bytes, int threads) {
  constexpr auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["bytes/s"] = {bytes, rate};
  state.counters["of_copy"] = {bytes / copy_bandwidth(threads), rate};
}

/// An operation whose limit is arithmetic: floating-point operations of one iteration.
inline void count_flops(benchmark::State& state, double flops, int threads) {
  constexpr auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["FLOP/s"] = {flops, rate};
  state.counters["of_sgemm"] = {flops / matrix_peak(threads), rate};
}

}  // namespace support
