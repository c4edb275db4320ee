// SPDX-License-Identifier: MIT
// Copies and conversions on a GPU: their limit is memory.
#include <dsv3/cuda/memory/copy.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

// Gapless, or as columns of a matrix with more of them.
enum class rows { adjoining, apart };

template <class From, class To, rows Lie>
void copy(benchmark::State& state) {
  const auto& m = support::deepseek_v3;
  support::device_tensor<From> x(m.tokens, m.hidden + (Lie == rows::apart ? 64 : 0));
  const support::device_tensor<To> y(m.tokens, m.hidden);
  x.normal(1);
  const view<const From, 2> from = x.get().columns(0, m.hidden);
  support::time_on<backend::cuda>(state,
                                  [&](auto& ctx) { op::copy<From, To>::forward(ctx, {.x = from, .y = y}); });
  support::count_bytes(state, static_cast<double>(y.get().size()) * (sizeof(From) + sizeof(To)));
}

BENCHMARK_TEMPLATE(copy, bf16, bf16, rows::adjoining)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(copy, bf16, bf16, rows::apart)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(copy, float, bf16, rows::adjoining)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(copy, float, float, rows::adjoining)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
