// SPDX-License-Identifier: MIT
// Cross entropy reads a row of logits from memory once; the rest is exponentials.
#include <dsv3/cpu/loss/cross_entropy.hpp>
#include <dsv3/exec/measure.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>

namespace {

using namespace dsv3;

/// A chunk of tokens whose logits a trainer would hold at once.
struct tensors {
  support::tensor<float, 2> logits, dlogits;
  support::tensor<float, 1> lse;
  support::tensor<std::int32_t, 1> targets;
  support::tensor<double, 1> loss;

  explicit tensors(const support::model_sizes& m)
      : logits(256, m.vocab), dlogits(256, m.vocab), lse(256), targets(256), loss(1) {
    logits.normal(1);
  }
};

template <const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tensors t(Sizes);
  host_memory memory;
  cpu_context<> ctx{.threads = threads};
  const auto work = [&](auto& any) {
    op::cross_entropy<fp32>::forward(
        any, {.logits = t.logits, .targets = t.targets, .loss = t.loss, .lse = t.lse});
  };
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  for (auto _ : state) work(ctx);
  support::count_bytes(state, t.logits.bytes(), threads);
}

template <const support::model_sizes& Sizes>
void backward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tensors t(Sizes);
  t.lse.fill(10);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state)
    op::cross_entropy<fp32>::backward(
        ctx, {.logits = t.logits, .targets = t.targets, .lse = t.lse, .dlogits = t.dlogits});
  support::count_bytes(state, 2.0 * t.logits.bytes(), threads);
}

BENCHMARK_TEMPLATE(forward, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
