// SPDX-License-Identifier: MIT
// The global norm on a GPU reads every gradient once.
#include <dsv3/cuda/optim/global_norm.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

#include <vector>

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

/// All tensors of four blocks of a model of about 3 billion numbers: experts' matrices, and many small ones.
template <class Element>
void accumulate_all(benchmark::State& state) {
  std::vector<support::device_tensor<Element, 1>> tensors;
  for (int block = 0; block < 4; ++block)
    for (const index_t n :
         {64 * 2048 * 2048, 64 * 2048 * 1024, 2048 * 2048, 768 * 2048, 3072 * 768, 576 * 2048, 4096 * 512,
          2 * 1024 * 2048, 1024 * 2048, 64 * 2048, 2048, 2048, 768, 512})
      tensors.emplace_back(n);
  const support::device_tensor<double, 1> sum(1);
  std::vector<view<const Element, 1>> list;
  double bytes = 0;
  for (auto& x : tensors) x.normal(1), list.push_back(x), bytes += static_cast<double>(x.bytes());
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::global_norm<Element>::accumulate_all(ctx, {.tensors = list, .sum = sum});
  });
  support::count_bytes(state, bytes);
}

BENCHMARK_TEMPLATE(accumulate_all, float)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(accumulate, float, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(accumulate, bf16, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(accumulate, float, support::mini)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
