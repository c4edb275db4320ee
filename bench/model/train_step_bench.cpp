// SPDX-License-Identifier: MIT
// A whole training step: forward, backward, clip, AdamW, bias update; its rate beside that of plain products.
//   bench/model.train_step              `mini`, 4 x 512 tokens, fp32, 2 threads
//   bench/model.train_step --by_op      where the time of one step goes, operation by operation
#include <support/limits.hpp>

#include <dsv3/cpu.hpp>
#include <dsv3/exec/counting_memory.hpp>
#include <dsv3/model/accounting.hpp>
#include <dsv3/train/step.hpp>

#include <benchmark/benchmark.h>

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace dsv3;
using layout = compact_layout;

constexpr step_shape shape_of_step{.rows = 4, .length = 512};
constexpr int threads = 2;

// Multiply-adds of main model and MTP modules, forward and backward, attention as the mask leaves it.
double step_flops(const model_config& config) {
  const model_account account{config};
  constexpr auto causal = model_account::counting::causal;
  return static_cast<double>(shape_of_step.tokens()) *
         (account.training_flops(shape_of_step.length, causal) +
          account.mtp_training_flops(shape_of_step.length, causal));
}

struct prepared {
  host_memory memory;
  deepseek_v3<fp32, layout> model{model_config::mini()};
  training_state<fp32, layout> state{memory, model, shape_of_step};
  step_options options{.learning_rate = 1e-4, .balance = {.coefficient = 1e-4}};

  template <class Ctx>
  void prepare(Ctx& ctx) {
    ctx.scratch = scratch_arena{memory, scratch_bytes(ctx, model, state)};
    initialize_state(ctx, state, 1);
    const random_stream random{1, 2};
    for (index_t i = 0; i < state.tokens.ids.size(); ++i)
      state.tokens.ids.data()[i] = static_cast<std::int32_t>(
          random.below(static_cast<std::uint64_t>(model.config.vocab), static_cast<std::uint64_t>(i)));
  }
  template <class Ctx>
  void step(Ctx& ctx) {
    const token_batch batch = state.micro_batch(0, shape_of_step.rows);
    const step_report report = train_step(ctx, model, state, std::span(&batch, 1), options);
    if (!report.updated) raise("bench: a step was skipped because of " + report.bad);
  }
};

// What the plan says such a state and its scratch take.
std::size_t planned_bytes() {
  counting_memory imagined;
  const deepseek_v3<fp32, layout> model{model_config::mini()};
  training_state<fp32, layout> plan{imagined, model, shape_of_step};
  return imagined.peak() + scratch_bytes(cpu_context<>{.threads = threads}, model, plan);
}

double resident_bytes() {
  ::rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  return 1024.0 * static_cast<double>(usage.ru_maxrss);
}

void train_mini(benchmark::State& state) {
  const double peak = support::matrix_peak(threads);
  static const double before =
      resident_bytes();  // the peak of a process never falls: ask before its first run
  prepared run;
  cpu_context<> ctx{.threads = threads};
  run.prepare(ctx);
  run.step(ctx);
  for (auto _ : state) run.step(ctx);
  constexpr auto rate = benchmark::Counter::kIsIterationInvariantRate;
  const double flops = step_flops(run.model.config);
  state.counters["tokens/s"] = {static_cast<double>(shape_of_step.tokens()), rate};
  state.counters["FLOP/s"] = {flops, rate};
  state.counters["of_sgemm"] = {flops / peak, rate};
  state.counters["planned_bytes"] = static_cast<double>(planned_bytes());
  state.counters["peak_bytes"] = resident_bytes() - before;
}
BENCHMARK(train_mini)->UseRealTime()->Unit(benchmark::kMillisecond)->MinTime(5);

void print_by_op() {
  prepared run;
  trace_log log;
  cpu_context<backend::trace<backend::cpu>> ctx{.threads = threads, .scratch = {}, .state = {&log, {}}};
  run.prepare(ctx);
  run.step(ctx);
  log.entries.clear();
  run.step(ctx);
  std::map<std::string, std::pair<double, int>> sums;
  double total = 0;
  for (const trace_entry& entry : log.entries) {
    auto& [seconds, calls] = sums[entry.name];
    seconds += entry.seconds, total += entry.seconds, ++calls;
  }
  std::vector<std::pair<double, std::string>> order;
  for (const auto& [name, sum] : sums) order.emplace_back(sum.first, name);
  std::sort(order.rbegin(), order.rend());
  const double ideal = step_flops(run.model.config) / support::matrix_peak(threads);
  std::printf(
      "one step of mini, 4 x 512 tokens, fp32, %d threads: %.3f s; at the rate of sgemm %.3f s (%.0f %%)\n",
      threads, total, ideal, 100 * ideal / total);
  for (const auto& [seconds, name] : order)
    std::printf("  %-34s %8.2f ms  %5.1f %%  %5d calls\n", name.c_str(), 1e3 * seconds, 100 * seconds / total,
                sums[name].second);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--by_op") == 0) {
    print_by_op();
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
