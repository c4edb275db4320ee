// SPDX-License-Identifier: MIT
// What it takes to sample 64 rows of logits: an exponential per token, and what each filter adds to it.
#include <dsv3/cpu/sample/token_distribution.hpp>
#include <dsv3/exec/measure.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

#include <vector>

namespace {

using namespace dsv3;
using P = fp32;

struct tensors {
  static constexpr index_t rows = 64;
  support::tensor<float, 2> logits;
  support::tensor<std::uint64_t, 2> weights;
  support::tensor<std::uint64_t, 1> totals, bits;
  support::tensor<std::int32_t, 1> tokens;
  std::vector<sampling_options> options;
  host_memory memory;
  cpu_context<> ctx;

  tensors(const support::model_sizes& m, const sampling_options& how, int threads)
      : logits(rows, m.vocab),
        weights(rows, m.vocab),
        totals(rows),
        bits(rows),
        tokens(rows),
        options(std::size_t(rows), how),
        ctx{.threads = threads} {
    logits.normal(1, 3);
    for (index_t r = 0; r < rows; ++r) bits.get()(r) = ~std::uint64_t{0} / rows * std::uint64_t(r);
    const auto work = [&](auto& probe) { op::token_distribution<P>::forward(probe, args()); };
    ctx.scratch = scratch_arena{memory, measure(ctx, work)};
    work(ctx);
  }
  op::token_distribution<P>::forward_args args() const {
    return {.logits = logits, .options = view{options.data(), rows}, .weights = weights, .totals = totals};
  }
};

constexpr sampling_options greedy = {}, plain = {.temperature = 1}, top_k = {.temperature = 1, .top_k = 50},
                           top_p = {.temperature = 1, .top_p = 0.95},
                           both = {.temperature = 1, .top_k = 50, .top_p = 0.95};

template <const support::model_sizes& Sizes, const sampling_options& How>
void forward(benchmark::State& state) {
  tensors t(Sizes, How, static_cast<int>(state.range(0)));
  for (auto _ : state) op::token_distribution<P>::forward(t.ctx, t.args());
  support::count_bytes(state, double(t.logits.bytes() + t.weights.bytes()), t.ctx.threads);
}

template <const support::model_sizes& Sizes>
void draw(benchmark::State& state) {
  tensors t(Sizes, plain, static_cast<int>(state.range(0)));
  for (auto _ : state)
    op::token_distribution<P>::draw(
        t.ctx, {.weights = t.weights, .totals = t.totals, .bits = t.bits, .tokens = t.tokens});
  support::count_bytes(state, double(t.weights.bytes()) / 2, t.ctx.threads);  // bits are even: half way
}

BENCHMARK_TEMPLATE(forward, support::deepseek_v3, greedy)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::deepseek_v3, plain)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::deepseek_v3, top_k)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::deepseek_v3, top_p)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::deepseek_v3, both)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::mini, both)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(draw, support::deepseek_v3)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
