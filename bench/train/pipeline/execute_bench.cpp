// SPDX-License-Identifier: MIT
// The executor on ranks that are threads: how much longer a step takes than the simulation says, where
// computing is waiting so that any number of ranks fits few cores.
#include <dsv3/comm/threads.hpp>
#include <dsv3/train/pipeline/execute.hpp>
#include <dsv3/train/pipeline/methods.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

namespace {

using namespace dsv3;
using namespace dsv3::pipeline;

constexpr std::chrono::milliseconds unit_time{4};

// Computes by waiting.
class waiting_stages {
 public:
  waiting_stages(const durations& d, std::size_t bytes) : d_(d), in_(bytes), out_(bytes) {}

  void forward(cpu_context<>&, unit) { wait(d_.forward); }
  void backward(cpu_context<>&, unit) { wait(d_.backward); }
  void input_gradient(cpu_context<>&, unit) { wait(d_.input_gradient); }
  void weight_gradient(cpu_context<>&, unit) { wait(d_.weight_gradient); }
  void overlapped(cpu_context<>&, unit, unit) { wait(d_.overlapped); }
  void hand_on(cpu_context<>&, unit, unit, payload) {}
  std::span<std::byte> incoming(unit, payload) { return in_; }
  std::span<const std::byte> outgoing(unit, payload) { return out_; }
  void sent(unit, payload) {}

 private:
  static void wait(double units) { std::this_thread::sleep_for(unit_time * units); }

  durations d_;
  std::vector<std::byte> in_, out_;
};

void step(benchmark::State& state) {
  const method& m = methods[static_cast<std::size_t>(state.range(0))];
  const int ranks = static_cast<int>(state.range(1));
  const executor run{m.make(ranks, 3 * ranks)};
  const simulation simulated = simulate(run.of());
  double seconds = 0, busy = 0;
  for (auto _ : state) {
    std::vector<execution_record> records(static_cast<std::size_t>(ranks));
    for (execution_record& record : records) record.origin = records[0].origin;
    thread_ranks{ranks}.run([&](const any_communicator& comm) {
      cpu_context<> ctx{};
      waiting_stages stages{{}, 1 << 20};
      comm.barrier();
      run.run(ctx, comm, stages, &records[static_cast<std::size_t>(comm.rank())]);
    });
    double begin = records[0].spans[0].begin, end = 0;
    for (std::size_t r = 0; r < records.size(); ++r)
      for (std::size_t i = 0; i < records[r].spans.size(); ++i) {
        begin = std::min(begin, records[r].spans[i].begin), end = std::max(end, records[r].spans[i].end);
        if (!is_message(run.of().ranks[r][i])) busy += records[r].spans[i].end - records[r].spans[i].begin;
      }
    seconds += end - begin;
  }
  const double steps = static_cast<double>(state.iterations());
  state.SetLabel(m.name);
  state.counters["units"] = seconds / steps / std::chrono::duration<double>(unit_time).count();
  state.counters["simulated"] = simulated.makespan;
  state.counters["busy"] = busy / (seconds * ranks);
  state.counters["simulated_busy"] = simulated.busy_share();
}

BENCHMARK(step)
    ->ArgsProduct({{0, 1, 2, 3}, {2, 4, 8}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(2);

}  // namespace

BENCHMARK_MAIN();
