// SPDX-License-Identifier: MIT
// On a GPU as on a CPU, constants write memory at its pace and random draws compute: a normal number is ten
// rounds of Philox, two wide products each, and a logarithm, a square root and a cosine in double.
#include <dsv3/cuda/memory/fill.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

template <class Element>
void fill_constant(benchmark::State& state) {
  const support::device_tensor<Element> y(support::deepseek_v3.tokens, support::deepseek_v3.hidden);
  support::time_on<backend::cuda>(
      state, [&](auto& ctx) { op::fill<Element>::constant(ctx, {.y = y.get().flat(), .value = 1}); });
  support::count_bytes(state, static_cast<double>(y.bytes()));
}

template <class Element>
void fill_normal(benchmark::State& state) {
  const support::device_tensor<Element> y(support::deepseek_v3.tokens, support::deepseek_v3.hidden);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::fill<Element>::normal(ctx, {.y = y.get().flat(), .random = {1, 2}});
  });
  support::count_bytes(state, static_cast<double>(y.bytes()));
}

BENCHMARK_TEMPLATE(fill_constant, float)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(fill_constant, bf16)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(fill_normal, float)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
