// SPDX-License-Identifier: MIT
// SwiGLU over the experts' rows into tiles on a GPU: two numbers read, one byte written.
#include <dsv3/cuda/quant/swiglu_quantizer.cuh>

#include <support/device_tiles.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using P = fp8_tilewise;

template <index_t Rows, index_t Inner>
void forward(benchmark::State& state) {
  support::device_tensor<activation<P>> gate_up(Rows, 2 * Inner);
  support::device_tensor<accumulator<P>, 1> row_gates(Rows);
  const support::device_tiles<row_tile> y(Rows, Inner, support::tiles_lie::by_column);
  gate_up.normal(1), row_gates.normal(2);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::swiglu_quantizer<P>::forward(ctx, {.gate_up = gate_up, .y = y.get(), .row_gates = row_gates});
  });
  support::count_bytes(state, static_cast<double>(gate_up.bytes()) + y.bytes());
}

constexpr support::model_sizes v3 = support::deepseek_v3;
BENCHMARK_TEMPLATE(forward, v3.tokens* v3.top_k, v3.expert_inner)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, v3.tokens, v3.inner)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
