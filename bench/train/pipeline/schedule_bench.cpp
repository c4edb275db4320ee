// SPDX-License-Identifier: MIT
// Pipeline schedules: making, verifying and simulating them; counters tell what each costs a rank.
#include <dsv3/train/pipeline/methods.hpp>
#include <dsv3/train/pipeline/simulate.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3::pipeline;

void count(benchmark::State& state, const schedule& s) {
  double instructions = 0;
  for (const auto& list : s.ranks) instructions += static_cast<double>(list.size());
  state.SetLabel(s.name);
  state.counters["instructions"] = instructions;
  state.counters["instructions/s"] =
      benchmark::Counter(instructions, benchmark::Counter::kIsIterationInvariantRate);
}

const method& of(const benchmark::State& state) { return methods[static_cast<std::size_t>(state.range(0))]; }

void make(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(of(state).make(16, 1000));
  count(state, of(state).make(16, 1000));
}

void check(benchmark::State& state) {
  const schedule s = of(state).make(16, 1000);
  for (auto _ : state) benchmark::DoNotOptimize(verify(s));
  count(state, s);
}

// As a program does it: simulating verifies first.
void make_and_simulate(benchmark::State& state) {
  const durations d{};
  double makespan = 0;
  for (auto _ : state) makespan = simulate(of(state).make(16, 1000), d).makespan;
  const schedule s = of(state).make(16, 1000);
  count(state, s);
  state.counters["makespan"] = makespan;
  state.counters["bubble"] = simulate(s, d).bubble(0);
  state.counters["formula"] = of(state).cost(16, d).bubble;
}

BENCHMARK(make)->DenseRange(0, 3)->Unit(benchmark::kMillisecond);
BENCHMARK(check)->DenseRange(0, 3)->Unit(benchmark::kMillisecond);
BENCHMARK(make_and_simulate)->DenseRange(0, 3)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
