// SPDX-License-Identifier: MIT
// Copies and conversions: their limit is memory.
#include <dsv3/cpu/memory/copy.hpp>
#include <dsv3/number/bf16.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class From, class To, const support::model_sizes& Sizes>
void copy(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  support::tensor<From> x(Sizes.tokens, Sizes.hidden);
  const support::tensor<To> y(Sizes.tokens, Sizes.hidden);
  x.normal(1);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state) op::copy<From, To>::forward(ctx, {.x = x, .y = y});
  support::count_bytes(state, static_cast<double>(x.bytes() + y.bytes()), threads);
}

using support::deepseek_v3, support::mini;
BENCHMARK_TEMPLATE(copy, float, float, deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(copy, float, bf16, deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(copy, float, bf16, mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
