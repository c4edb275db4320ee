// SPDX-License-Identifier: MIT
// Cross entropy on a GPU reads a row of logits from memory once, and once more to write its gradient.
#include <dsv3/cuda/loss/cross_entropy.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

/// A chunk of tokens whose logits a trainer would hold at once.
struct tensors {
  support::device_tensor<float> logits;
  support::device_tensor<float, 1> lse;
  support::device_tensor<std::int32_t, 1> targets;
  support::device_tensor<double, 1> loss;

  explicit tensors(const support::model_sizes& m) : logits(2048, m.vocab), lse(2048), targets(2048), loss(1) {
    logits.normal(1), lse.fill(10);
    targets.generate([&](index_t t) { return static_cast<std::int32_t>(t * 61 % m.vocab); });
  }
};

template <const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  const tensors t(Sizes);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::cross_entropy<fp32>::forward(
        ctx, {.logits = t.logits, .targets = t.targets, .loss = t.loss, .lse = t.lse});
  });
  support::count_bytes(state, static_cast<double>(t.logits.bytes()));
}

/// In place: what repetitions do to the logits costs no less time.
template <const support::model_sizes& Sizes>
void backward(benchmark::State& state) {
  const tensors t(Sizes);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::cross_entropy<fp32>::backward(
        ctx, {.logits = t.logits, .targets = t.targets, .lse = t.lse, .dlogits = t.logits});
  });
  support::count_bytes(state, 2.0 * static_cast<double>(t.logits.bytes()));
}

BENCHMARK_TEMPLATE(forward, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, support::mini)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, support::mini)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
