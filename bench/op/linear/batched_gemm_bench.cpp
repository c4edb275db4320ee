// SPDX-License-Identifier: MIT
// Absorbing the key up-projection into a query and applying the value up-projection: with few tokens the
// limit is reading the weights.
#include <dsv3/cpu/linear/batched_gemm.hpp>
#include <dsv3/exec/measure.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class P, const support::model_sizes& Sizes, index_t Tokens, bool Absorb>
void batched_gemm(benchmark::State& state) {
  using op = dsv3::op::batched_gemm<P>;
  const int threads = static_cast<int>(state.range(0));
  constexpr index_t in = Absorb ? Sizes.qk_nope : Sizes.kv_rank, out = Absorb ? Sizes.kv_rank : Sizes.v_dim;
  support::tensor<activation<P>, 3> x(Tokens, Sizes.heads, in), y(Tokens, Sizes.heads, out);
  support::tensor<weight<P>, 3> w(Sizes.heads, Absorb ? in : out, Absorb ? out : in);
  x.normal(1), w.normal(2);
  const auto work = [&](auto& ctx) {
    if constexpr (Absorb)
      op::transposed(ctx, {.x = x, .w = w, .y = y});
    else
      op::forward(ctx, {.x = x, .w = w, .y = y});
  };
  host_memory memory;
  cpu_context<> ctx{.threads = threads};
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  for (auto _ : state) work(ctx);
  support::count_flops(state, 2.0 * static_cast<double>(Tokens * w.get().size()), threads);
  support::count_bytes(state, static_cast<double>(w.bytes()), threads);
}

BENCHMARK_TEMPLATE(batched_gemm, fp32, support::mini, 1, true)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, fp32, support::mini, 1, false)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, fp32, support::mini, 8, true)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, fp32, support::mini, 8, false)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, fp32, support::deepseek_v3, 1, true)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, fp32, support::deepseek_v3, 1, false)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, fp32, support::deepseek_v3, 4, true)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, fp32, support::deepseek_v3, 4, false)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, fp32, support::deepseek_v3, 16, true)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, fp32, support::deepseek_v3, 16, false)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, bf16_mixed, support::mini, 1, true)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, bf16_mixed, support::mini, 1, false)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, bf16_mixed, support::deepseek_v3, 1, true)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(batched_gemm, bf16_mixed, support::deepseek_v3, 1, false)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
