// SPDX-License-Identifier: MIT
// SwiGLU over the experts' rows into tiles: two numbers read, one byte written.
#include <dsv3/cpu/quant/swiglu_quantizer.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;
using P = fp8_tilewise;

template <const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  constexpr index_t rows = Sizes.tokens * Sizes.top_k, inner = Sizes.expert_inner;
  support::tensor<activation<P>, 2> gate_up(rows, 2 * inner);
  support::tensor<fp8_e4m3, 2> codes(rows, inner);
  support::tensor<float, 2> scales(ceil_div(inner, 128), rows);
  support::tensor<accumulator<P>, 1> row_gates(rows);
  gate_up.normal(1), row_gates.normal(2);
  const index_t extents[] = {rows, ceil_div(inner, 128)}, strides[] = {1, rows};  // tokens side by side
  cpu_context<> ctx{.threads = static_cast<int>(state.range(0))};
  for (auto _ : state)
    op::swiglu_quantizer<P>::forward(
        ctx,
        {.gate_up = gate_up, .y = {codes, {scales.get().data(), extents, strides}}, .row_gates = row_gates});
  support::count_bytes(state, double(gate_up.bytes() + codes.bytes() + scales.bytes()), ctx.threads);
}

BENCHMARK_TEMPLATE(forward, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
