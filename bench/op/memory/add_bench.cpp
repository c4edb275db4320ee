// SPDX-License-Identifier: MIT
// Sums of two streams: their limit is memory.
#include <dsv3/cpu/memory/add.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class P, const support::model_sizes& Sizes>
void add(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  support::tensor<activation<P>> a(Sizes.tokens, Sizes.hidden), b(Sizes.tokens, Sizes.hidden);
  const support::tensor<activation<P>> y(Sizes.tokens, Sizes.hidden);
  a.normal(1), b.normal(2);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state) op::add<P>::forward(ctx, {.a = a, .b = b, .y = y});
  support::count_bytes(state, 3.0 * static_cast<double>(y.bytes()), threads);
}

using support::deepseek_v3, support::mini;
BENCHMARK_TEMPLATE(add, fp32, deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(add, bf16_mixed, deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(add, fp32, mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
