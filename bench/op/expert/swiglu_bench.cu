// SPDX-License-Identifier: MIT
// SwiGLU over the experts' rows on a GPU: its limit is memory.
#include <dsv3/cuda/expert/swiglu.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

template <class P>
struct tensors {
  support::device_tensor<activation<P>> gate_up, y, d_gate_up;
  support::device_tensor<accumulator<P>, 1> row_gates, d_row_gates;

  tensors(index_t rows, index_t inner)
      : gate_up(rows, 2 * inner),
        y(rows, inner),
        d_gate_up(rows, 2 * inner),
        row_gates(rows),
        d_row_gates(rows) {
    gate_up.normal(1), y.normal(2), row_gates.normal(3);
  }
};

template <class P, index_t Rows, index_t Inner>
void forward(benchmark::State& state) {
  tensors<P> t(Rows, Inner);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::swiglu<P>::forward(ctx, {.gate_up = t.gate_up, .y = t.y, .row_gates = t.row_gates});
  });
  support::count_bytes(state, 3.0 * static_cast<double>(t.y.bytes()));  // gate, up, y
}

template <class P, index_t Rows, index_t Inner>
void backward(benchmark::State& state) {
  tensors<P> t(Rows, Inner);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::swiglu<P>::backward(ctx, {.dy = t.y,
                                  .gate_up = t.gate_up,
                                  .d_gate_up = t.d_gate_up,
                                  .row_gates = t.row_gates,
                                  .d_row_gates = t.d_row_gates});
  });
  support::count_bytes(state, 5.0 * static_cast<double>(t.y.bytes()));  // dy, gate, up; both gradients
}

constexpr auto& sizes = support::deepseek_v3;
constexpr index_t rows = sizes.tokens * sizes.top_k;  // of all experts together
BENCHMARK_TEMPLATE(forward, bf16_mixed, rows, sizes.expert_inner)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, bf16_mixed, sizes.tokens, sizes.inner)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, fp32, rows, sizes.expert_inner)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, bf16_mixed, rows, sizes.expert_inner)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, bf16_mixed, sizes.tokens, sizes.inner)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, fp32, rows, sizes.expert_inner)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
