// SPDX-License-Identifier: MIT
// The linear layer's products on a GPU: their limit is arithmetic, with few tokens reading the weights.
#include <dsv3/cuda/linear/gemm.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using support::deepseek_v3;

struct extents {
  index_t tokens, in, out;
};
constexpr extents square{4096, 4096, 4096};
constexpr extents down{deepseek_v3.tokens, deepseek_v3.hidden, deepseek_v3.q_rank};
constexpr extents queries{deepseek_v3.tokens, deepseek_v3.q_rank, 24576};
constexpr extents output{deepseek_v3.tokens, 16384, deepseek_v3.hidden};
constexpr extents small{16384, 2048, 8192};  // the dense layer of a model of 3 billion parameters
constexpr extents logits{4096, 2048, 32768};

enum class pass { forward, data, weights };

template <class P, pass Pass, const extents& E, class Output = activation<P>>
void gemm(benchmark::State& state) {
  support::device_tensor<activation<P>> x(E.tokens, E.in), dx(E.tokens, E.in);
  support::device_tensor<Output> y(E.tokens, E.out);
  support::device_tensor<weight<P>> w(E.out, E.in);
  const support::device_tensor<gradient<P>> dw(E.out, E.in);
  x.normal(1), y.normal(2), w.normal(3);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    using op = dsv3::op::gemm<P, Output>;
    if constexpr (Pass == pass::forward) op::forward(ctx, {.x = x, .w = w, .y = y});
    if constexpr (Pass == pass::data) op::backward_data(ctx, {.dy = y, .w = w, .dx = dx});
    if constexpr (Pass == pass::weights) op::backward_weights(ctx, {.dy = y, .x = x, .dw = dw});
  });
  const double flops = 2.0 * static_cast<double>(E.tokens * E.in * E.out);
  if constexpr (std::is_same_v<activation<P>, bf16>)
    support::count_flops<bf16>(state, flops);
  else
    state.counters["FLOP/s"] = {flops, benchmark::Counter::kIsIterationInvariantRate};
}

BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::forward, square)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::data, square)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::weights, square)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::forward, down)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::forward, queries)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::forward, output)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::forward, small)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::data, small)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::weights, small)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::forward, logits, float)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::data, logits, float)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::weights, logits, float)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, fp32, pass::forward, square)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gemm, fp64_reference, pass::forward, square)->Apply(support::on_gpu);

template <index_t Tokens>
void few_tokens(benchmark::State& state) {
  using P = bf16_mixed;
  support::device_tensor<bf16> x(Tokens, deepseek_v3.hidden), w(4096, deepseek_v3.hidden);
  const support::device_tensor<bf16> y(Tokens, 4096);
  x.normal(1), w.normal(2);
  support::time_on<backend::cuda>(state,
                                  [&](auto& ctx) { op::gemm<P>::forward(ctx, {.x = x, .w = w, .y = y}); });
  support::count_bytes(state, static_cast<double>(w.bytes()));
}
BENCHMARK_TEMPLATE(few_tokens, 1)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(few_tokens, 16)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(few_tokens, 128)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
