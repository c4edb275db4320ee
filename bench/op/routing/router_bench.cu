// SPDX-License-Identifier: MIT
// The router on a GPU is a thin product that must not be rounded to the matrix units' few bits, and a choice.
// Its limit is theirs: what they multiply are planes of bf16, of which a float takes three. Counted is what
// they have to do, three products of planes for scores and dx and two for the centroids' gradient; fp32 runs
// on no matrix unit.
#include <dsv3/cuda/routing/router_sm90.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

/// A model of three billion parameters, which one GPU trains.
constexpr support::model_sizes one_gpu = [] {
  support::model_sizes m = support::deepseek_v3;
  m.hidden = 2048, m.experts = 64, m.top_k = 6;
  return m;
}();

template <class P>
struct tensors {
  router_config config;
  support::device_tensor<activation<P>> x, dx;
  support::device_tensor<master<P>> centroids;
  support::device_tensor<gradient<P>> dcentroids;
  support::device_tensor<master<P>, 1> bias;
  support::device_tensor<accumulator<P>> scores, gates, dgates, dscores, dlogits;
  support::device_tensor<std::int32_t> ids;
  support::device_tensor<std::int64_t, 1> load;

  tensors(const support::model_sizes& m, index_t tokens)
      : config{.hidden = m.hidden,
               .experts = m.experts,
               .top_k = m.top_k,
               .groups = m.groups,
               .kept_groups = m.top_groups,
               .scale = 2.5},
        x(tokens, m.hidden),
        dx(tokens, m.hidden),
        centroids(m.experts, m.hidden),
        dcentroids(m.experts, m.hidden),
        bias(m.experts),
        scores(tokens, m.experts),
        gates(tokens, m.top_k),
        dgates(tokens, m.top_k),
        dscores(tokens, m.experts),
        dlogits(tokens, m.experts),
        ids(tokens, m.top_k),
        load(m.experts) {
    x.normal(1), centroids.normal(2, 0.02), dgates.normal(3), dscores.normal(4), dlogits.normal(5);
    auto ctx = support::context<>();
    const auto work = [&](auto& any) { forward(any); };
    ctx.scratch = scratch_arena{support::gpu_memory(), measure(ctx, work)};
    work(ctx);
    synchronize(ctx);
  }
  template <class Ctx>
  void forward(Ctx& ctx) const {
    op::router<P>::forward(ctx, {.config = config,
                                 .x = x,
                                 .centroids = centroids,
                                 .bias = bias,
                                 .scores = scores,
                                 .ids = ids,
                                 .gates = gates,
                                 .load = load});
  }
  double flops(int planes) const {
    const int products = std::is_same_v<activation<P>, bf16> ? planes : 1;
    return 2.0 * products * static_cast<double>(x.get().size()) * static_cast<double>(config.experts);
  }
};

template <class Backend, class P, const support::model_sizes& Sizes, index_t Tokens>
void forward(benchmark::State& state) {
  const tensors<P> t(Sizes, Tokens);
  support::time_on<Backend>(state, [&](auto& ctx) { t.forward(ctx); });
  support::count_flops<bf16>(state, t.flops(3));
}

template <class Backend, class P, const support::model_sizes& Sizes, index_t Tokens>
void backward_data(benchmark::State& state) {
  const tensors<P> t(Sizes, Tokens);
  support::time_on<Backend>(state, [&](auto& ctx) {
    op::router<P>::backward_data(ctx, {.config = t.config,
                                       .dgates = t.dgates,
                                       .scores = t.scores,
                                       .ids = t.ids,
                                       .centroids = t.centroids,
                                       .dscores = t.dscores,
                                       .dlogits = t.dlogits,
                                       .dx = t.dx});
  });
  support::count_flops<bf16>(state, t.flops(3));
}

template <class Backend, class P, const support::model_sizes& Sizes, index_t Tokens>
void backward_weights(benchmark::State& state) {
  const tensors<P> t(Sizes, Tokens);
  support::time_on<Backend>(state, [&](auto& ctx) {
    op::router<P>::backward_weights(ctx, {.dlogits = t.dlogits, .x = t.x, .dcentroids = t.dcentroids});
  });
  support::count_flops<bf16>(state, t.flops(2));
}

BENCHMARK_TEMPLATE(forward, backend::cuda, fp32, support::deepseek_v3, 128)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, backend::cuda, fp32, support::deepseek_v3, 4096)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, backend::hopper, bf16_mixed, support::deepseek_v3, 128)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, backend::hopper, bf16_mixed, support::deepseek_v3, 4096)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, backend::hopper, bf16_mixed, support::deepseek_v3, 16384)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, backend::hopper, bf16_mixed, one_gpu, 16384)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, backend::cuda, bf16_mixed, support::deepseek_v3, 16384)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward_data, backend::hopper, bf16_mixed, support::deepseek_v3, 4096)
    ->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward_data, backend::hopper, bf16_mixed, support::deepseek_v3, 16384)
    ->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward_data, backend::hopper, bf16_mixed, one_gpu, 16384)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward_data, backend::cuda, bf16_mixed, support::deepseek_v3, 16384)
    ->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward_weights, backend::hopper, bf16_mixed, support::deepseek_v3, 4096)
    ->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward_weights, backend::hopper, bf16_mixed, support::deepseek_v3, 16384)
    ->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward_weights, backend::hopper, bf16_mixed, one_gpu, 16384)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward_weights, backend::cuda, bf16_mixed, support::deepseek_v3, 16384)
    ->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
