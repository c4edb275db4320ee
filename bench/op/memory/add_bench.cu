// SPDX-License-Identifier: MIT
// Sums of two streams on a GPU: their limit is memory.
#include <dsv3/cuda/memory/add.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

template <class P>
void add(benchmark::State& state) {
  const auto& m = support::deepseek_v3;
  support::device_tensor<activation<P>> a(m.tokens, m.hidden), b(m.tokens, m.hidden);
  const support::device_tensor<activation<P>> y(m.tokens, m.hidden);
  a.normal(1), b.normal(2);
  support::time_on<backend::cuda>(state,
                                  [&](auto& ctx) { op::add<P>::forward(ctx, {.a = a, .b = b, .y = y}); });
  support::count_bytes(state, 3.0 * static_cast<double>(y.bytes()));
}

BENCHMARK_TEMPLATE(add, bf16_mixed)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(add, fp32)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
