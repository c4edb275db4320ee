// SPDX-License-Identifier: MIT
// The global norm on a GPU reads every gradient once.
#include <dsv3/cuda/optim/global_norm.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

/// One expert's matrix: inner x hidden.
template <class Element, const support::model_sizes& Sizes>
void accumulate(benchmark::State& state) {
  support::device_tensor<Element, 1> x(Sizes.hidden * Sizes.expert_inner);
  const support::device_tensor<double, 1> sum(1);
  x.normal(1);
  support::time_on<backend::cuda>(
      state, [&](auto& ctx) { op::global_norm<Element>::accumulate(ctx, {.x = x, .sum = sum}); });
  support::count_bytes(state, static_cast<double>(x.bytes()));
}

BENCHMARK_TEMPLATE(accumulate, float, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(accumulate, bf16, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(accumulate, float, support::mini)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
