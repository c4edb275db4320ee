// SPDX-License-Identifier: MIT
// The rotary embedding moves memory: its limit is the copy bandwidth, and the table is read beside x.
#include <dsv3/cpu/rope/decoupled_rope.hpp>
#include <dsv3/exec/memory.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

constexpr rope_config yarn{.factor = 40};

template <class P>
auto config_of(index_t positions, const support::model_sizes& m) {
  return typename rope_table<accumulator<P>>::config_type{.positions = positions, .qk_rope = m.qk_rope};
}

// The rotary columns of the queries, turned where they lie between the other columns. Inverse costs the same.
template <class P, const support::model_sizes& Sizes, rope_layout Layout>
void queries(benchmark::State& state) {
  using op_type = op::decoupled_rope<P, Layout>;
  const int threads = static_cast<int>(state.range(0));
  const index_t length = Sizes.tokens / Sizes.sequences, width = Sizes.qk_nope + Sizes.qk_rope;
  support::tensor<activation<P>, 3> q(Sizes.tokens, Sizes.heads, width);
  support::tensor<std::int32_t, 1> positions(Sizes.tokens);
  for (index_t t = 0; t < Sizes.tokens; ++t) positions.get()(t) = static_cast<std::int32_t>(t % length);
  host_memory memory;
  owned<rope_table<accumulator<P>>> table(memory, config_of<P>(length, Sizes));
  cpu_context<> ctx{.threads = threads};
  op_type::table(ctx, {.rope = yarn, .table = table});
  q.normal(1);
  const auto x = q.get().columns(Sizes.qk_nope, width);
  for (auto _ : state) op_type::apply(ctx, {.x = x, .positions = positions, .table = table});
  support::count_bytes(state, 2.0 * static_cast<double>(x.size()) * sizeof(activation<P>), threads);
}

// Filling the table: 2 * pairs numbers a position, by the library's cosine and sine in double.
template <class P, const support::model_sizes& Sizes>
void table(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  host_memory memory;
  owned<rope_table<accumulator<P>>> table(memory, config_of<P>(4096, Sizes));
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state) op::decoupled_rope<P>::table(ctx, {.rope = yarn, .table = table});
  support::count_bytes(state, static_cast<double>(table.bytes()), threads);
}

BENCHMARK_TEMPLATE(queries, fp32, support::deepseek_v3, rope_layout::interleaved)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(queries, bf16_mixed, support::deepseek_v3, rope_layout::interleaved)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(queries, fp32, support::deepseek_v3, rope_layout::half_split)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(queries, bf16_mixed, support::deepseek_v3, rope_layout::half_split)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(queries, fp32, support::mini, rope_layout::interleaved)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(queries, bf16_mixed, support::mini, rope_layout::interleaved)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(table, fp32, support::deepseek_v3)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
