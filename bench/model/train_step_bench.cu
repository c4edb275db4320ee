// SPDX-License-Identifier: MIT
// A whole training step on the GPU: forward, backward, clip, AdamW, bias update, launched as one graph.
//   bench/gpu/model.train_step                                  tokens per second, model FLOPs, memory
//   bench/gpu/model.train_step --by_op SIZE bf16|fp8            where the time goes, operation by operation
#include <support/cuda_bench.hpp>

#include <dsv3/cuda.cuh>
#include <dsv3/cuda/host/recorded_work.cuh>
#include <dsv3/model/accounting.hpp>
#include <dsv3/model/named_config.hpp>
#include <dsv3/train/step.hpp>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace dsv3;

// Multiply-adds of main model and MTP modules, forward and backward, attention as the mask leaves it. What is
// computed again does not count.
double step_flops(const model_config& config, const step_shape& shape) {
  const model_account account{config};
  constexpr auto causal = model_account::counting::causal;
  return static_cast<double>(shape.tokens()) *
         (account.training_flops(shape.length, causal) + account.mtp_training_flops(shape.length, causal));
}

template <class P>
struct prepared {
  dsv3::cuda::device_memory memory;
  dsv3::cuda::shared_memory shared;
  deepseek_v3<P> model;
  training_state<P> state;
  step_options options{.learning_rate = 1e-4, .balance = {.coefficient = 1e-4}};

  prepared(const model_config& config, const step_shape& shape)
      : model{config, 4096}, state({memory, shared}, model, shape) {}

  template <class Ctx>
  void prepare(Ctx& ctx) {
    ctx.scratch = scratch_arena{memory, scratch_bytes(ctx, model, state)};
    initialize_state(ctx, state, 1);
    const random_stream random{1, 2};
    for (index_t i = 0; i < state.tokens.ids.size(); ++i)
      state.tokens.ids.data()[i] = static_cast<std::int32_t>(
          random.below(static_cast<std::uint64_t>(model.config.vocab), static_cast<std::uint64_t>(i)));
  }
  template <class Ctx, class Execute = directly>
  void step(Ctx& ctx, Execute&& execute = {}) {
    const token_batch batch = state.micro_batch(0, state.shape.rows);
    const step_report report = train_step(ctx, model, state, std::span(&batch, 1), options, execute);
    if (!report.updated) raise("bench: a step was skipped because of " + report.bad);
  }
};

struct sizes {
  const char* name;
  step_shape shape;
};
constexpr sizes bench_3b{"bench-3b", {.rows = 4, .length = 4096}},
    small{"small", {.rows = 4, .length = 4096}}, mini{"mini", {.rows = 8, .length = 1024}},
    tiny{"tiny", {.rows = 8, .length = 128}};

template <class P, class Backend, const sizes& Sizes>
void train(benchmark::State& state) {
  try {
    const model_config config = named_config(Sizes.name);
    const double peak = support::matrix_peak<bf16>();
    auto ctx = support::context<Backend>();
    prepared<P> run{config, Sizes.shape};
    run.prepare(ctx);
    dsv3::cuda::recorded_work recorded;
    for (int warm = 0; warm < 3; ++warm) run.step(ctx, recorded);
    for (auto _ : state) run.step(ctx, recorded);
    constexpr auto rate = benchmark::Counter::kIsIterationInvariantRate;
    const double flops = step_flops(config, Sizes.shape);
    state.counters["tokens/s"] = {static_cast<double>(Sizes.shape.tokens()), rate};
    state.counters["FLOP/s"] = {flops, rate};
    state.counters["of_bf16_peak"] = {flops / peak, rate};
    state.counters["peak_bytes"] = static_cast<double>(run.memory.peak());
    ctx.scratch = {};
  } catch (const error& failure) {
    state.SkipWithError(failure.what());
  }
}

void on_clock(benchmark::internal::Benchmark* bench) {
  bench->UseRealTime()->Unit(benchmark::kMillisecond)->MinTime(3);
}
BENCHMARK_TEMPLATE(train, bf16_mixed, backend::hopper, bench_3b)->Apply(on_clock);
BENCHMARK_TEMPLATE(train, fp8_tilewise, backend::hopper, bench_3b)->Apply(on_clock);
BENCHMARK_TEMPLATE(train, bf16_mixed, backend::hopper, small)->Apply(on_clock);
BENCHMARK_TEMPLATE(train, fp8_tilewise, backend::hopper, small)->Apply(on_clock);
BENCHMARK_TEMPLATE(train, bf16_mixed, backend::hopper, mini)->Apply(on_clock);
BENCHMARK_TEMPLATE(train, bf16_mixed, backend::hopper, tiny)->Apply(on_clock);

template <class P>
void print_by_op(const sizes& chosen) {
  const model_config config = named_config(chosen.name);
  trace_log log;
  auto plain = support::context<backend::hopper>();
  cuda_context<backend::trace<backend::hopper>> ctx{
      .stream = plain.stream, .scratch = {}, .state = {&log, plain.state}};
  prepared<P> run{config, chosen.shape};
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
  const double ideal = step_flops(config, chosen.shape) / support::matrix_peak<bf16>();
  std::printf("one step of %s, %s, %lld x %lld tokens: %.1f ms; at the rate of bf16 products %.1f ms\n",
              chosen.name, P::name, static_cast<long long>(chosen.shape.rows),
              static_cast<long long>(chosen.shape.length), 1e3 * total, 1e3 * ideal);
  for (const auto& [seconds, name] : order)
    std::printf("  %-36s %8.3f ms  %5.1f %%  %5d calls\n", name.c_str(), 1e3 * seconds, 100 * seconds / total,
                sums[name].second);
  ctx.scratch = {};
}

}  // namespace

int main(int count, char** words) {
  if (count == 4 && std::string_view(words[1]) == "--by_op") {
    for (const sizes* chosen : {&bench_3b, &small, &mini, &tiny})
      if (words[2] == std::string_view(chosen->name))
        words[3] == std::string_view("fp8") ? print_by_op<fp8_tilewise>(*chosen)
                                            : print_by_op<bf16_mixed>(*chosen);
    return 0;
  }
  return support::bench_main(count, words);
}
