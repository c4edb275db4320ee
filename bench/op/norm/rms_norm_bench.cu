// SPDX-License-Identifier: MIT
// RMSNorm on a GPU moves memory: its limit is the copy bandwidth. Ranks are narrow: at 4096 tokens their rows
// fit the second-level cache, and starting the kernel is much of the time.
#include <dsv3/cuda/norm/rms_norm.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

template <class P>
struct tensors {
  support::device_tensor<activation<P>> x, residual, sum, y, dy, dx;
  support::device_tensor<master<P>, 1> gain;
  support::device_tensor<accumulator<P>, 1> rstd;
  support::device_tensor<gradient<P>, 1> dgain;

  tensors(index_t tokens, index_t hidden)
      : x(tokens, hidden),
        residual(tokens, hidden),
        sum(tokens, hidden),
        y(tokens, hidden),
        dy(tokens, hidden),
        dx(tokens, hidden),
        gain(hidden),
        rstd(tokens),
        dgain(hidden) {
    x.normal(1), residual.normal(2), dy.normal(3), gain.normal(4), rstd.fill(1);
  }
};

constexpr index_t tokens = support::deepseek_v3.tokens;

template <class P, index_t Hidden, index_t Tokens = tokens>
void forward(benchmark::State& state) {
  tensors<P> t(Tokens, Hidden);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::rms_norm<P>::forward(ctx, {.x = t.x, .gain = t.gain, .y = t.y, .rstd = t.rstd});
  });
  support::count_bytes(state, 2.0 * static_cast<double>(t.x.bytes()));
}

template <class P, index_t Hidden>
void forward_with_residual(benchmark::State& state) {
  tensors<P> t(tokens, Hidden);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::rms_norm<P>::forward(
        ctx, {.x = t.x, .gain = t.gain, .y = t.y, .rstd = t.rstd, .residual = t.residual, .sum = t.sum});
  });
  support::count_bytes(state, 4.0 * static_cast<double>(t.x.bytes()));  // x, residual, sum, y
}

template <class P, index_t Hidden, index_t Tokens = tokens>
void backward(benchmark::State& state) {
  tensors<P> t(Tokens, Hidden);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::rms_norm<P>::backward(ctx, {.dy = t.dy,
                                    .x = t.x,
                                    .gain = t.gain,
                                    .rstd = t.rstd,
                                    .dx = t.dx,
                                    .dgain = t.dgain,
                                    .d_residual = t.residual});
  });
  support::count_bytes(state, 4.0 * static_cast<double>(t.x.bytes()));  // dy, x, d_residual, dx
}

constexpr index_t hidden = support::deepseek_v3.hidden, q_rank = support::deepseek_v3.q_rank,
                  kv_rank = support::deepseek_v3.kv_rank;
BENCHMARK_TEMPLATE(forward, bf16_mixed, hidden)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, bf16_mixed, q_rank)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, bf16_mixed, q_rank, 4 * tokens)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, bf16_mixed, kv_rank)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, bf16_mixed, kv_rank, 4 * tokens)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, fp32, hidden)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward_with_residual, bf16_mixed, hidden)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward_with_residual, bf16_mixed, 16384)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, bf16_mixed, hidden)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, bf16_mixed, q_rank)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, bf16_mixed, q_rank, 4 * tokens)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, bf16_mixed, kv_rank)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, bf16_mixed, kv_rank, 4 * tokens)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, fp32, hidden)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
