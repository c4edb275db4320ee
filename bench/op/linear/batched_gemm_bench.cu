// SPDX-License-Identifier: MIT
// Absorbing the key up-projection into a query and applying the value up-projection on a GPU: with few
// tokens the limit is reading the weights, with many it is arithmetic.
#include <dsv3/cuda/linear/batched_gemm.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using support::deepseek_v3;

template <index_t Tokens, bool Absorb>
void batched_gemm(benchmark::State& state) {
  using op = dsv3::op::batched_gemm<bf16_mixed>;
  constexpr index_t heads = deepseek_v3.heads;
  constexpr index_t in = Absorb ? deepseek_v3.qk_nope : deepseek_v3.kv_rank;
  constexpr index_t out = Absorb ? deepseek_v3.kv_rank : deepseek_v3.v_dim;
  support::device_tensor<bf16, 3> x(Tokens, heads, in), w(heads, Absorb ? in : out, Absorb ? out : in);
  const support::device_tensor<bf16, 3> y(Tokens, heads, out);
  x.normal(1), w.normal(2);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    if constexpr (Absorb)
      op::transposed(ctx, {.x = x, .w = w, .y = y});
    else
      op::forward(ctx, {.x = x, .w = w, .y = y});
  });
  support::count_bytes(state, static_cast<double>(w.bytes() + x.bytes() + y.bytes()));
  if constexpr (Tokens >= 1024)
    support::count_flops<bf16>(state, 2.0 * static_cast<double>(Tokens * heads * in * out));
}

BENCHMARK_TEMPLATE(batched_gemm, 1, true)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(batched_gemm, 1, false)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(batched_gemm, 16, true)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(batched_gemm, 16, false)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(batched_gemm, 128, true)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(batched_gemm, 128, false)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(batched_gemm, 4096, true)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(batched_gemm, 4096, false)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
