// SPDX-License-Identifier: MIT
// SwiGLU over the experts' rows: memory is its limit once the exponential is vectorised.
#include <dsv3/cpu/expert/swiglu.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class P>
struct tensors {
  support::tensor<activation<P>, 2> gate_up, y, d_gate_up;
  support::tensor<accumulator<P>, 1> row_gates, d_row_gates;
  cpu_context<> ctx;

  tensors(const support::model_sizes& m, int threads)
      : gate_up(m.tokens * m.top_k, 2 * m.expert_inner),
        y(m.tokens * m.top_k, m.expert_inner),
        d_gate_up(m.tokens * m.top_k, 2 * m.expert_inner),
        row_gates(m.tokens * m.top_k),
        d_row_gates(m.tokens * m.top_k),
        ctx{.threads = threads} {
    gate_up.normal(1), y.normal(2), row_gates.normal(3);
  }
};

template <class P, const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  tensors<P> t(Sizes, static_cast<int>(state.range(0)));
  for (auto _ : state)
    op::swiglu<P>::forward(t.ctx, {.gate_up = t.gate_up, .y = t.y, .row_gates = t.row_gates});
  support::count_bytes(state, 3.0 * double(t.y.bytes()), t.ctx.threads);  // gate, up, y
}

template <class P, const support::model_sizes& Sizes>
void backward(benchmark::State& state) {
  tensors<P> t(Sizes, static_cast<int>(state.range(0)));
  for (auto _ : state)
    op::swiglu<P>::backward(t.ctx, {.dy = t.y,
                                    .gate_up = t.gate_up,
                                    .d_gate_up = t.d_gate_up,
                                    .row_gates = t.row_gates,
                                    .d_row_gates = t.d_row_gates});
  support::count_bytes(state, 5.0 * double(t.y.bytes()), t.ctx.threads);  // dy, gate, up; both gradients
}

BENCHMARK_TEMPLATE(forward, bf16_mixed, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16_mixed, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, bf16_mixed, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, bf16_mixed, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
