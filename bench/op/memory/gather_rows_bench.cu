// SPDX-License-Identifier: MIT
// Picking rows on a GPU: its limit is memory.
#include <dsv3/cuda/memory/gather_rows.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

// Half of the rows, in no order.
template <class T>
void gather_rows(benchmark::State& state) {
  const auto& m = support::deepseek_v3;
  support::device_tensor<T> x(m.tokens, m.hidden);
  support::device_tensor<std::int32_t, 1> rows(m.tokens / 2);
  const support::device_tensor<T> y(m.tokens / 2, m.hidden);
  x.normal(1);
  rows.generate([&](index_t i) { return static_cast<std::int32_t>(i * 7919 % m.tokens); });
  support::time_on<backend::cuda>(
      state, [&](auto& ctx) { op::gather_rows<T>::forward(ctx, {.x = x, .rows = rows, .y = y}); });
  support::count_bytes(state, 2.0 * static_cast<double>(y.bytes()));
}

BENCHMARK_TEMPLATE(gather_rows, bf16)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(gather_rows, float)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
