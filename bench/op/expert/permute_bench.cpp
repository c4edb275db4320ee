// SPDX-License-Identifier: MIT
// Permutation moves memory: one row read and top_k written, and back. Its limit is the copy bandwidth.
#include <dsv3/cpu/expert/permute.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class P>
struct tensors {
  host_memory memory;
  owned<permutation> plan;
  support::tensor<std::int32_t, 2> ids;
  support::tensor<activation<P>, 2> x, rows, y;
  cpu_context<> ctx;

  tensors(const support::model_sizes& m, int threads)
      : plan(memory, permutation_config{.tokens = m.tokens, .top_k = m.top_k, .experts = m.experts}),
        ids(m.tokens, m.top_k),
        x(m.tokens, m.hidden),
        rows(plan.config.row_capacity(), m.hidden),
        y(m.tokens, m.hidden),
        ctx{.threads = threads} {
    const random_stream random(20260101, 1);
    const auto experts = static_cast<std::uint64_t>(m.experts);
    for (index_t t = 0; t < m.tokens; ++t) {
      const auto first = static_cast<index_t>(random.below(experts, static_cast<std::uint64_t>(t)));
      for (index_t k = 0; k < m.top_k; ++k)
        ids.get()(t, k) = static_cast<std::int32_t>((first + k * 13) % m.experts);
    }
    x.normal(2), rows.normal(3);
    ctx.scratch = scratch_arena{memory, std::size_t{1} << 20};
    make_plan();
  }
  void make_plan() { op::permute<P>::plan(ctx, {.ids = ids, .plan = plan}); }
  double moved() const { return double(x.bytes()) * double(plan.config.top_k + 1); }
};

template <const support::model_sizes& Sizes>
void plan(benchmark::State& state) {
  tensors<bf16_mixed> t(Sizes, static_cast<int>(state.range(0)));
  for (auto _ : state) t.make_plan();
  // The choice is read twice; rows and their tokens are written.
  support::count_bytes(state, double(3 * t.ids.bytes() + 4 * t.plan.config.row_capacity()), t.ctx.threads);
}

template <class P, const support::model_sizes& Sizes>
void dispatch(benchmark::State& state) {
  tensors<P> t(Sizes, static_cast<int>(state.range(0)));
  for (auto _ : state) op::permute<P>::dispatch(t.ctx, {.x = t.x, .plan = t.plan, .rows = t.rows});
  support::count_bytes(state, t.moved(), t.ctx.threads);
}

template <class P, const support::model_sizes& Sizes>
void combine(benchmark::State& state) {
  tensors<P> t(Sizes, static_cast<int>(state.range(0)));
  for (auto _ : state) op::permute<P>::combine(t.ctx, {.rows = t.rows, .plan = t.plan, .y = t.y});
  support::count_bytes(state, t.moved(), t.ctx.threads);
}

BENCHMARK_TEMPLATE(plan, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(plan, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(dispatch, bf16_mixed, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(dispatch, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(dispatch, bf16_mixed, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(combine, bf16_mixed, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(combine, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(combine, bf16_mixed, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
