// SPDX-License-Identifier: MIT
// Writing the rows of a prompt into pages and reading a context back: limited by memory; rows in
// 8 bits are quantised and widened on the way.
#include <dsv3/cpu/attention/latent_cache.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class P, class Row, const support::model_sizes& Sizes, index_t Length, bool Append>
void latent_cache(benchmark::State& state) {
  constexpr index_t page_rows = 64, pages = ceil_div(Length, page_rows);
  const int threads = static_cast<int>(state.range(0));
  support::tensor<activation<P>> c(Length, Sizes.kv_rank), k_rope(Length, Sizes.qk_rope);
  constexpr index_t width = Row::width(Sizes.kv_rank, Sizes.qk_rope);
  using cached = op::latent_cache<P, Row>;
  support::tensor<typename cached::element, 3> pool(pages, page_rows, width);
  support::tensor<std::int32_t, 2> table(1, pages);
  support::tensor<std::int32_t, 1> lengths(1), offsets(2), positions(Length);
  c.normal(1), k_rope.normal(2);
  for (index_t page = 0; page < pages; ++page)
    table.get()(0, page) = static_cast<std::int32_t>(page * 13 % pages);
  lengths.get()(0) = offsets.get()(1) = Length;
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state) {
    if constexpr (Append)
      cached::append(ctx, {.c = c,
                           .k_rope = k_rope,
                           .tokens = {offsets, positions, Length},
                           .cache = {pool, table, lengths}});
    else
      cached::gather(ctx, {.cache = {pool, table, lengths},
                           .tokens = {offsets, positions, Length},
                           .c = c,
                           .k_rope = k_rope});
  }
  support::count_bytes(state,
                       static_cast<double>(c.bytes() + k_rope.bytes() +
                                           Length * width * index_t{sizeof(typename cached::element)}),
                       threads);
}

BENCHMARK_TEMPLATE(latent_cache, fp32, cache_row::plain, support::mini, 1, true)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(latent_cache, fp32, cache_row::plain, support::mini, 2048, true)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(latent_cache, fp32, cache_row::plain, support::mini, 2048, false)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(latent_cache, bf16_mixed, cache_row::plain, support::deepseek_v3, 32768, true)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(latent_cache, bf16_mixed, cache_row::plain, support::deepseek_v3, 32768, false)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(latent_cache, bf16_mixed, cache_row::fp8, support::deepseek_v3, 32768, true)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(latent_cache, bf16_mixed, cache_row::fp8, support::deepseek_v3, 32768, false)
    ->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
