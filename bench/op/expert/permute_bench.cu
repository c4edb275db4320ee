// SPDX-License-Identifier: MIT
// Permutation on a GPU moves memory: one row read and top_k written, and back. Its limit is the copy
// bandwidth.
#include <dsv3/cuda/expert/permute.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using P = bf16_mixed;

struct tensors {
  owned<permutation> exchange;
  support::device_tensor<std::int32_t> ids;
  support::device_tensor<bf16> x, rows, y;

  explicit tensors(const support::model_sizes& m)
      : exchange(
            support::gpu_memory(),
            permutation_config{.tokens = m.tokens, .top_k = m.top_k, .experts = m.experts, .alignment = 128}),
        ids(m.tokens, m.top_k),
        x(m.tokens, m.hidden),
        rows(exchange.config.row_capacity(), m.hidden),
        y(m.tokens, m.hidden) {
    const random_stream random(20260101, 1);
    ids.generate([&](index_t i) {
      const index_t t = i / m.top_k, k = i % m.top_k;
      const auto first = static_cast<index_t>(
          random.below(static_cast<std::uint64_t>(m.experts), static_cast<std::uint64_t>(t)));
      return static_cast<std::int32_t>((first + k * 13) % m.experts);
    });
    x.normal(2), rows.normal(3);
    auto ctx = support::context<>();
    const auto work = [&](auto& any) { make_plan(any); };
    ctx.scratch = scratch_arena{support::gpu_memory(), measure(ctx, work)};
    work(ctx);
    synchronize(ctx);
  }
  template <class Ctx>
  void make_plan(Ctx& ctx) const {
    op::permute<P>::plan(ctx, {.ids = ids, .plan = exchange});
  }
  double moved() const {
    return static_cast<double>(x.bytes()) * static_cast<double>(exchange.config.top_k + 1);
  }
};

template <const support::model_sizes& Sizes>
void plan(benchmark::State& state) {
  const tensors t(Sizes);
  support::time_on<backend::cuda>(state, [&](auto& ctx) { t.make_plan(ctx); });
  // The choice is read twice; rows and their tokens are written.
  support::count_bytes(state, static_cast<double>(3 * t.ids.bytes() + 4 * t.exchange.config.row_capacity()));
}

template <const support::model_sizes& Sizes>
void dispatch(benchmark::State& state) {
  const tensors t(Sizes);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::permute<P>::dispatch(ctx, {.x = t.x, .plan = t.exchange, .rows = t.rows});
  });
  support::count_bytes(state, t.moved());
}

template <const support::model_sizes& Sizes>
void combine(benchmark::State& state) {
  const tensors t(Sizes);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::permute<P>::combine(ctx, {.rows = t.rows, .plan = t.exchange, .y = t.y});
  });
  support::count_bytes(state, t.moved());
}

BENCHMARK_TEMPLATE(plan, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(plan, support::mini)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(dispatch, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(dispatch, support::mini)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(combine, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(combine, support::mini)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
