// SPDX-License-Identifier: MIT
// The router is a thin product and a choice; what of_sgemm lacks to 1 is the choice, and packing for so few
// columns.
#include <dsv3/cpu/routing/router.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class P>
struct tensors {
  router_config config;
  support::tensor<activation<P>, 2> x, dx;
  support::tensor<master<P>, 2> centroids;
  support::tensor<gradient<P>, 2> dcentroids;
  support::tensor<master<P>, 1> bias;
  support::tensor<accumulator<P>, 2> scores, gates, dgates, dscores, dlogits;
  support::tensor<std::int32_t, 2> ids;
  support::tensor<std::int64_t, 1> load;
  host_memory memory;
  cpu_context<> ctx;

  tensors(const support::model_sizes& m, int threads)
      : config{.hidden = m.hidden,
               .experts = m.experts,
               .top_k = m.top_k,
               .groups = m.groups,
               .kept_groups = m.top_groups,
               .scale = 2.5},
        x(m.tokens, m.hidden),
        dx(m.tokens, m.hidden),
        centroids(m.experts, m.hidden),
        dcentroids(m.experts, m.hidden),
        bias(m.experts),
        scores(m.tokens, m.experts),
        gates(m.tokens, m.top_k),
        dgates(m.tokens, m.top_k),
        dscores(m.tokens, m.experts),
        dlogits(m.tokens, m.experts),
        ids(m.tokens, m.top_k),
        load(m.experts),
        ctx{.threads = threads} {
    x.normal(1), centroids.normal(2, 0.02), dgates.normal(3), dscores.normal(4);
    ctx.scratch = scratch_arena{memory, std::size_t{1} << 25};
    forward();
  }
  void forward() {
    op::router<P>::forward(ctx, {.config = config,
                                 .x = x,
                                 .centroids = centroids,
                                 .bias = bias,
                                 .scores = scores,
                                 .ids = ids,
                                 .gates = gates,
                                 .load = load});
  }
  double flops() const { return 2.0 * double(x.get().size()) * double(config.experts); }
};

template <class P, const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  tensors<P> t(Sizes, static_cast<int>(state.range(0)));
  for (auto _ : state) t.forward();
  support::count_flops(state, t.flops(), t.ctx.threads);
}

template <class P, const support::model_sizes& Sizes>
void backward_data(benchmark::State& state) {
  tensors<P> t(Sizes, static_cast<int>(state.range(0)));
  for (auto _ : state)
    op::router<P>::backward_data(t.ctx, {.config = t.config,
                                         .dgates = t.dgates,
                                         .scores = t.scores,
                                         .ids = t.ids,
                                         .centroids = t.centroids,
                                         .dscores = t.dscores,
                                         .dlogits = t.dlogits,
                                         .dx = t.dx});
  support::count_flops(state, t.flops(), t.ctx.threads);
}

template <class P, const support::model_sizes& Sizes>
void backward_weights(benchmark::State& state) {
  tensors<P> t(Sizes, static_cast<int>(state.range(0)));
  for (auto _ : state)
    op::router<P>::backward_weights(t.ctx, {.dlogits = t.dlogits, .x = t.x, .dcentroids = t.dcentroids});
  support::count_flops(state, t.flops(), t.ctx.threads);
}

BENCHMARK_TEMPLATE(forward, fp32, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16_mixed, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16_mixed, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward_data, fp32, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward_data, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward_data, bf16_mixed, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward_weights, fp32, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward_weights, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward_weights, bf16_mixed, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
