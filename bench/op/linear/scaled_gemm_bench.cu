// SPDX-License-Identifier: MIT
// The linear layer's products over scaled tiles on a GPU: their limit is the matrix units' rate on 8 bits.
#include <dsv3/cuda/linear/scaled_gemm.cuh>
#include <dsv3/cuda/linear/scaled_gemm_sm90.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using support::deepseek_v3;

struct extents {
  index_t in, out;
};
// The real model's matrices.
constexpr extents joint_down{deepseek_v3.hidden, deepseek_v3.q_rank + deepseek_v3.kv_rank + 64};
constexpr extents queries_up{deepseek_v3.q_rank, 24576};
constexpr extents keys_values_up{deepseek_v3.kv_rank, 32768};
constexpr extents output{16384, deepseek_v3.hidden};
constexpr extents gate_up{deepseek_v3.hidden, 2 * deepseek_v3.expert_inner};
constexpr extents down{deepseek_v3.expert_inner, deepseek_v3.hidden};

enum class pass { forward, data, weights };

template <pass Pass, const extents& E, class Backend>
void scaled_gemm(benchmark::State& state) {
  using op = dsv3::op::scaled_gemm<fp8_tilewise>;
  const index_t tokens = state.range(0);
  constexpr bool transposed = Pass == pass::weights;
  using operand = support::device_scaled_tensor<fp8_e4m3, row_tile>;
  const operand x(transposed ? E.in : tokens, transposed ? tokens : E.in, 1),
      dy(transposed ? E.out : tokens, transposed ? tokens : E.out, 2);
  const support::device_scaled_tensor<fp8_e4m3, block_tile> w(E.out, E.in, 3);
  const support::device_tensor<bf16> y(tokens, E.out), dx(tokens, E.in);
  const support::device_tensor<float> dw(E.out, E.in);
  support::time_on<Backend>(state, [&](auto& ctx) {
    if constexpr (Pass == pass::forward) op::forward(ctx, {.x = x.get(), .w = w.get(), .y = y});
    if constexpr (Pass == pass::data) op::backward_data(ctx, {.dy = dy.get(), .w = w.get(), .dx = dx});
    if constexpr (Pass == pass::weights)
      op::backward_weights(ctx, {.dy_t = dy.get(), .x_t = x.get(), .dw = dw});
  });
  support::count_flops<fp8_e4m3>(state, 2.0 * static_cast<double>(tokens * E.in * E.out));
}

void tokens(benchmark::internal::Benchmark* bench) {
  support::on_gpu(bench);
  bench->Arg(4096);
}
void few_and_many_tokens(benchmark::internal::Benchmark* bench) {
  support::on_gpu(bench);
  bench->Arg(64)->Arg(128)->Arg(4096);
}

BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, joint_down, backend::hopper)->Apply(few_and_many_tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, queries_up, backend::hopper)->Apply(few_and_many_tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, keys_values_up, backend::hopper)->Apply(few_and_many_tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, output, backend::hopper)->Apply(few_and_many_tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, gate_up, backend::hopper)->Apply(few_and_many_tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, down, backend::hopper)->Apply(few_and_many_tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::data, output, backend::hopper)->Apply(tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::data, gate_up, backend::hopper)->Apply(tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::weights, joint_down, backend::hopper)->Apply(tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::weights, output, backend::hopper)->Apply(tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::weights, gate_up, backend::hopper)->Apply(tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::weights, down, backend::hopper)->Apply(tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, gate_up, backend::cuda)->Apply(tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::data, gate_up, backend::cuda)->Apply(tokens);
BENCHMARK_TEMPLATE(scaled_gemm, pass::weights, gate_up, backend::cuda)->Apply(tokens);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
