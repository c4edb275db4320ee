// SPDX-License-Identifier: MIT
// The global norm reads every gradient once.
#include <dsv3/cpu/optim/global_norm.hpp>
#include <dsv3/exec/measure.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

/// One expert's matrix: inner x hidden.
template <class Element, const support::model_sizes& Sizes>
void accumulate(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  support::tensor<Element, 1> x(Sizes.hidden * Sizes.expert_inner);
  support::tensor<double, 1> sum(1);
  x.normal(1);
  cpu_context<> ctx{.threads = threads};
  host_memory memory;
  const auto work = [&](auto& any) { op::global_norm<Element>::accumulate(any, {.x = x, .sum = sum}); };
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  for (auto _ : state) work(ctx);
  support::count_bytes(state, x.bytes(), threads);
}

BENCHMARK_TEMPLATE(accumulate, float, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(accumulate, float, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
