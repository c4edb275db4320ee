// SPDX-License-Identifier: MIT
// Absorbed attention over a context of 2048: limited by memory with few heads, by arithmetic with many. Both
// limits are given.
#include <dsv3/cpu/attention/latent_cache.hpp>
#include <dsv3/cpu/attention/mla_decode.hpp>
#include <dsv3/exec/measure.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

#include <cmath>

namespace {

using namespace dsv3;

// `Queries` of each of `Sequences` sequences, pages of 64 rows taken from all over the pool.
template <class P, const support::model_sizes& Sizes, index_t Sequences, index_t Queries,
          class Row = cache_row::plain>
void decode(benchmark::State& state) {
  constexpr index_t length = 2048, page_rows = 64, pages = length / page_rows;
  constexpr index_t tokens = Sequences * Queries, width = Sizes.kv_rank + Sizes.qk_rope;
  const int threads = static_cast<int>(state.range(0));
  support::tensor<activation<P>, 3> q_latent(tokens, Sizes.heads, Sizes.kv_rank),
      q_rope(tokens, Sizes.heads, Sizes.qk_rope), z(tokens, Sizes.heads, Sizes.kv_rank);
  support::tensor<typename op::latent_cache<P, Row>::element, 3> pool(
      Sequences * pages, page_rows, Row::width(Sizes.kv_rank, Sizes.qk_rope));
  support::tensor<std::int32_t, 2> table(Sequences, pages);
  support::tensor<std::int32_t, 1> lengths(Sequences), offsets(Sequences + 1), positions(tokens);
  q_latent.normal(1), q_rope.normal(2), lengths.fill(length);
  for (index_t b = 0; b <= Sequences; ++b) offsets.get()(b) = static_cast<std::int32_t>(b * Queries);
  for (index_t b = 0; b < Sequences; ++b)
    for (index_t page = 0; page < pages; ++page)
      table.get()(b, page) = static_cast<std::int32_t>((b * pages + page) * 13 % (Sequences * pages));
  cpu_context<> ctx{.threads = threads};
  {
    support::tensor<activation<P>> c(Sequences * length, Sizes.kv_rank),
        k_rope(Sequences * length, Sizes.qk_rope);
    support::tensor<std::int32_t, 1> first(Sequences + 1), all(Sequences * length);
    c.normal(3), k_rope.normal(4);
    for (index_t b = 0; b <= Sequences; ++b) first.get()(b) = static_cast<std::int32_t>(b * length);
    op::latent_cache<P, Row>::append(
        ctx, {.c = c, .k_rope = k_rope, .tokens = {first, all, length}, .cache = {pool, table, lengths}});
  }
  const typename op::mla_decode<P, Row>::forward_args args{
      .q_latent = q_latent,
      .q_rope = q_rope,
      .queries = {offsets, positions, Queries},
      .cache = {pool, table, lengths},
      .scale = 1 / std::sqrt(static_cast<double>(Sizes.qk_nope + Sizes.qk_rope)),
      .z = z};
  host_memory memory;
  ctx.scratch =
      scratch_arena{memory, measure(ctx, [&](auto& probe) { op::mla_decode<P, Row>::forward(probe, args); })};
  for (auto _ : state) op::mla_decode<P, Row>::forward(ctx, args);
  const double pairs = static_cast<double>(tokens * Sizes.heads) * static_cast<double>(length);
  support::count_flops(state, pairs * 2 * static_cast<double>(width + Sizes.kv_rank), threads);
  support::count_bytes(state, static_cast<double>(pool.bytes()), threads);
}

BENCHMARK_TEMPLATE(decode, fp32, support::mini, 1, 1)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, fp32, support::mini, 1, 2)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, fp32, support::mini, 1, 4)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, fp32, support::mini, 1, 8)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, fp32, support::mini, 16, 1)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, bf16_mixed, support::mini, 1, 1)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, bf16_mixed, support::mini, 16, 1)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, fp32, support::deepseek_v3, 1, 1)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, fp32, support::deepseek_v3, 1, 4)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, bf16_mixed, support::deepseek_v3, 1, 1)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, bf16_mixed, support::deepseek_v3, 1, 4)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, bf16_mixed, support::deepseek_v3, 1, 1, cache_row::fp8)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, bf16_mixed, support::deepseek_v3, 1, 4, cache_row::fp8)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(decode, bf16_mixed, support::mini, 1, 1, cache_row::fp8)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
