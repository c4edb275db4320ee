// SPDX-License-Identifier: MIT
// Picking rows: its limit is memory.
#include <dsv3/cpu/memory/gather_rows.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

namespace {

using namespace dsv3;

// Half of the rows, in an order that no prefetcher guesses.
template <const support::model_sizes& Sizes>
void gather_rows(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  support::tensor<float> x(Sizes.tokens, Sizes.hidden);
  const support::tensor<float> y(Sizes.tokens / 2, Sizes.hidden);
  x.normal(1);
  std::vector<std::int32_t> rows;
  for (index_t i = 0; i < Sizes.tokens / 2; ++i)
    rows.push_back(static_cast<std::int32_t>(i * 7919 % Sizes.tokens));
  cpu_context<> ctx{.threads = threads};
  const view<const std::int32_t, 1> picked{rows.data(), Sizes.tokens / 2};
  for (auto _ : state) op::gather_rows<float>::forward(ctx, {.x = x, .rows = picked, .y = y});
  support::count_bytes(state, static_cast<double>(2 * y.bytes()), threads);
}

using support::deepseek_v3, support::mini;
BENCHMARK_TEMPLATE(gather_rows, deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gather_rows, mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
