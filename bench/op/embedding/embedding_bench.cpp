// SPDX-License-Identifier: MIT
// The embedding moves memory, in rows that lie anywhere.
#include <dsv3/cpu/embedding/embedding.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

namespace {

using namespace dsv3;

std::vector<std::int32_t> random_ids(const support::model_sizes& m) {
  const random_stream random(20260101, 9);
  std::vector<std::int32_t> ids;
  for (index_t t = 0; t < m.tokens; ++t)
    ids.push_back(static_cast<std::int32_t>(
        random.below(static_cast<std::uint64_t>(m.vocab), static_cast<std::uint64_t>(t))));
  return ids;
}

template <class P, const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  const std::vector<std::int32_t> ids = random_ids(Sizes);
  support::tensor<weight<P>> table(Sizes.vocab, Sizes.hidden);
  const support::tensor<activation<P>> y(Sizes.tokens, Sizes.hidden);
  table.normal(1);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state)
    op::embedding<P>::forward(ctx, {.ids = view{ids.data(), Sizes.tokens}, .table = table, .y = y});
  support::count_bytes(state, 2.0 * static_cast<double>(y.bytes()), threads);  // rows of the table, y
}

template <class P, const support::model_sizes& Sizes>
void backward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  const std::vector<std::int32_t> ids = random_ids(Sizes);
  support::tensor<activation<P>> dy(Sizes.tokens, Sizes.hidden);
  const support::tensor<gradient<P>> dtable(Sizes.vocab, Sizes.hidden);
  dy.normal(1);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state)
    op::embedding<P>::backward(ctx, {.ids = view{ids.data(), Sizes.tokens}, .dy = dy, .dtable = dtable});
  const auto elements = static_cast<double>(Sizes.tokens * Sizes.hidden);
  support::count_bytes(state, elements * (sizeof(activation<P>) + 2.0 * sizeof(gradient<P>)), threads);
}

using support::deepseek_v3, support::mini;
BENCHMARK_TEMPLATE(forward, bf16_mixed, deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, fp32, mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, bf16_mixed, deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, fp32, mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
