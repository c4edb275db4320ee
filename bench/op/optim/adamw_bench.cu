// SPDX-License-Identifier: MIT
// AdamW on a GPU moves memory: it reads gradient, master and moments and writes master, moments and weight.
#include <dsv3/cuda/optim/adamw.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

/// One expert's matrix: inner x hidden.
template <class P, const support::model_sizes& Sizes>
void step(benchmark::State& state) {
  const index_t n = Sizes.hidden * Sizes.expert_inner;
  support::device_tensor<gradient<P>, 1> g(n);
  support::device_tensor<master<P>, 1> p(n);
  const support::device_tensor<weight<P>, 1> w(n);
  const support::device_tensor<moment<P>, 1> m(n), v(n);
  support::device_tensor<double, 1> scale(1), pace(3);
  const auto now = adamw_config{}.pace(1e-4, 1);
  g.normal(1, 1e-3), p.normal(2, 0.006), scale.fill(1);
  pace.generate([&](index_t i) { return now[static_cast<std::size_t>(i)]; });
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::adamw<P>::step(ctx,
                       {.g = g, .scale = scale, .p = p, .w = w, .m = m, .v = v, .config = {}, .pace = pace});
  });
  support::count_bytes(
      state, static_cast<double>(g.bytes() + 2 * p.bytes() + w.bytes() + 2 * m.bytes() + 2 * v.bytes()));
}

BENCHMARK_TEMPLATE(step, fp32, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(step, bf16_mixed, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(step, bf16_mixed, support::mini)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
