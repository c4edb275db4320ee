// SPDX-License-Identifier: MIT
// RMSNorm moves memory: its limit is the copy bandwidth.
#include <dsv3/cpu/norm/rms_norm.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class P>
struct tensors {
  support::tensor<activation<P>, 2> x, residual, sum, y, dy, dx;
  support::tensor<master<P>, 1> gain;
  support::tensor<accumulator<P>, 1> rstd;
  support::tensor<gradient<P>, 1> dgain;

  explicit tensors(const support::model_sizes& m)
      : x(m.tokens, m.hidden),
        residual(m.tokens, m.hidden),
        sum(m.tokens, m.hidden),
        y(m.tokens, m.hidden),
        dy(m.tokens, m.hidden),
        dx(m.tokens, m.hidden),
        gain(m.hidden),
        rstd(m.tokens),
        dgain(m.hidden) {
    x.normal(1), residual.normal(2), dy.normal(3), gain.normal(4);
  }
};

template <class P, const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tensors<P> t(Sizes);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state)
    op::rms_norm<P>::forward(
        ctx, {.x = t.x, .gain = t.gain, .y = t.y, .rstd = t.rstd, .residual = t.residual, .sum = t.sum});
  support::count_bytes(state, 4.0 * t.x.bytes(), threads);  // x, residual, sum, y
}

template <class P, const support::model_sizes& Sizes>
void backward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tensors<P> t(Sizes);
  t.rstd.fill(1);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state)
    op::rms_norm<P>::backward(ctx, {.dy = t.dy,
                                    .x = t.x,
                                    .gain = t.gain,
                                    .rstd = t.rstd,
                                    .dx = t.dx,
                                    .dgain = t.dgain,
                                    .d_residual = t.residual});
  support::count_bytes(state, 6.0 * t.x.bytes(), threads);  // dy, x, d_residual, dx; again dy and x for dgain
}

BENCHMARK_TEMPLATE(forward, fp32, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16_mixed, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16_mixed, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, fp32, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, bf16_mixed, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, bf16_mixed, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
