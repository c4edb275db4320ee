// SPDX-License-Identifier: MIT
// AdamW moves memory: it reads gradient, master and moments and writes master, moments and weight.
#include <dsv3/cpu/optim/adamw.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class P>
struct tensors {
  support::tensor<gradient<P>, 1> g;
  support::tensor<master<P>, 1> p;
  support::tensor<weight<P>, 1> w;
  support::tensor<moment<P>, 1> m, v;
  support::tensor<double, 1> scale;

  explicit tensors(index_t n) : g(n), p(n), w(n), m(n), v(n), scale(1) {
    g.normal(1, 1e-3), p.normal(2, 0.006), scale.fill(1);
  }
  double bytes() const {
    return static_cast<double>(g.bytes() + 2 * p.bytes() + w.bytes() + 2 * m.bytes() + 2 * v.bytes());
  }
};

/// One expert's matrix: inner x hidden.
template <class P, const support::model_sizes& Sizes>
void step(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tensors<P> t(Sizes.hidden * Sizes.expert_inner);
  cpu_context<> ctx{.threads = threads};
  const auto pace = adamw_config{}.pace(1e-4, 1);
  for (auto _ : state)
    op::adamw<P>::step(ctx, {.g = t.g,
                             .scale = t.scale,
                             .p = t.p,
                             .w = t.w,
                             .m = t.m,
                             .v = t.v,
                             .config = {},
                             .pace = view{pace.data(), 3}});
  support::count_bytes(state, t.bytes(), threads);
}

BENCHMARK_TEMPLATE(step, fp32, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(step, bf16_mixed, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(step, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(step, bf16_mixed, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
