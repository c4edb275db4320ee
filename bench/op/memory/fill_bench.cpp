// SPDX-License-Identifier: MIT
// Constants write memory at its pace; random draws compute.
#include <dsv3/cpu/memory/fill.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class Element, const support::model_sizes& Sizes>
void fill_constant(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  const support::tensor<Element> y(Sizes.tokens, Sizes.hidden);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state) op::fill<Element>::constant(ctx, {.y = y.get().flat(), .value = 1});
  support::count_bytes(state, static_cast<double>(y.bytes()), threads);
}

template <class Element, const support::model_sizes& Sizes>
void fill_normal(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  const support::tensor<Element> y(Sizes.tokens, Sizes.hidden);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state) op::fill<Element>::normal(ctx, {.y = y.get().flat(), .random = {1, 2}});
  support::count_bytes(state, static_cast<double>(y.bytes()), threads);
}

using support::deepseek_v3, support::mini;
BENCHMARK_TEMPLATE(fill_constant, float, deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(fill_constant, float, mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(fill_normal, float, mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
