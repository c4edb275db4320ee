// SPDX-License-Identifier: MIT
// Placing and replacing the experts of a layer: 256 of them with 32 redundant slots, for prefill (32 GPUs)
// and decode (144 GPUs).
#include <dsv3/exec/random.hpp>
#include <dsv3/infer/expert_rebalance.hpp>

#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

namespace {

using namespace dsv3;

// Loads from 1 to e squared; `later` draws a third of them anew.
std::vector<double> loads(bool later) {
  const random_stream random(7, 1);
  std::vector<double> all;
  for (std::uint64_t e = 0; e < 256; ++e) {
    const double u = random.uniform(e), v = random.uniform(1000 + e);
    all.push_back(std::exp(2 * (later && e % 3 == 0 ? v : u)));
  }
  return all;
}

expert_slots shape(const benchmark::State& state) {
  return state.range(0) == 32
             ? expert_slots{.experts = 256, .groups = 8, .slots = 288, .nodes = 4, .gpus = 32}
             : expert_slots{.experts = 256, .groups = 8, .slots = 288, .nodes = 18, .gpus = 144};
}

void place(benchmark::State& state) {
  const std::vector<double> load = loads(false);
  for (auto _ : state) benchmark::DoNotOptimize(place_experts(shape(state), load));
  state.counters["imbalance"] = place_experts(shape(state), load).imbalance(load);
}

void rebalance(benchmark::State& state) {
  const expert_placement before = place_experts(shape(state), loads(false));
  const std::vector<double> load = loads(true);
  for (auto _ : state) benchmark::DoNotOptimize(rebalance_experts(before, load, 1, state.range(1)));
  const expert_placement next = rebalance_experts(before, load, 1, state.range(1));
  state.counters["kept"] = before.imbalance(load);
  state.counters["imbalance"] = next.imbalance(load);
  state.counters["moved"] = static_cast<double>(moved_experts(before, next));
}

BENCHMARK(place)->Arg(32)->Arg(144)->Unit(benchmark::kMicrosecond);
BENCHMARK(rebalance)->ArgsProduct({{32, 144}, {4, 16, 64, 1000}})->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
