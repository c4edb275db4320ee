// SPDX-License-Identifier: MIT
// The experts' products: their limit is arithmetic, whether tokens spread or crowd.
#include <dsv3/cpu/linear/grouped_gemm.hpp>
#include <dsv3/exec/measure.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

namespace {

using namespace dsv3;
using support::mini;

constexpr index_t rows = mini.tokens * mini.top_k;

enum class pass { forward, data, weights };
enum class load { even, uneven, crowded };

/// Rows of each expert; all together `rows`.
std::vector<std::int32_t> counts_of(load spread) {
  std::vector<std::int32_t> counts(mini.experts, spread == load::crowded ? 0 : rows / mini.experts);
  if (spread == load::crowded) counts[5] = rows;
  if (spread == load::uneven)
    for (std::size_t e = 0; e + 1 < counts.size(); e += 2) {
      const auto moved = static_cast<std::int32_t>(e) * rows / mini.experts / mini.experts;
      counts[e] += moved, counts[e + 1] -= moved;
    }
  return counts;
}

template <class P, pass Pass, load Spread>
void grouped_gemm(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  constexpr index_t in = mini.hidden, out = mini.expert_inner;
  support::tensor<activation<P>> x(rows, in), y(rows, out), dx(rows, in);
  support::tensor<weight<P>, 3> w(mini.experts, out, in);
  support::tensor<gradient<P>, 3> dw(mini.experts, out, in);
  x.normal(1), y.normal(2), w.normal(3);
  const std::vector<std::int32_t> counts = counts_of(Spread);
  std::vector<std::int32_t> offsets{0};
  for (const std::int32_t count : counts) offsets.push_back(offsets.back() + count);
  const auto ragged = [&](auto& tensor) {
    return ragged_view<activation<P>>{tensor.get(),
                                      view<const std::int32_t, 1>{offsets.data(), mini.experts + 1},
                                      view<const std::int32_t, 1>{counts.data(), mini.experts}};
  };
  const auto work = [&](auto& ctx) {
    using op = dsv3::op::grouped_gemm<P>;
    if constexpr (Pass == pass::forward) op::forward(ctx, {.x = ragged(x), .w = w, .y = ragged(y)});
    if constexpr (Pass == pass::data) op::backward_data(ctx, {.dy = ragged(y), .w = w, .dx = ragged(dx)});
    if constexpr (Pass == pass::weights)
      op::backward_weights(ctx, {.dy = ragged(y), .x = ragged(x), .dw = dw});
  };
  host_memory memory;
  cpu_context<> ctx{.threads = threads};
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  for (auto _ : state) work(ctx);
  support::count_flops(state, 2.0 * static_cast<double>(rows * in * out), threads);
}

BENCHMARK_TEMPLATE(grouped_gemm, fp32, pass::forward, load::even)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(grouped_gemm, fp32, pass::data, load::even)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(grouped_gemm, fp32, pass::weights, load::even)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(grouped_gemm, fp32, pass::forward, load::uneven)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(grouped_gemm, fp32, pass::weights, load::uneven)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(grouped_gemm, fp32, pass::forward, load::crowded)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(grouped_gemm, fp32, pass::weights, load::crowded)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(grouped_gemm, bf16_mixed, pass::forward, load::even)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(grouped_gemm, bf16_mixed, pass::weights, load::even)->Apply(support::on_threads);

/// One token's experts, one row each, spread over all: the limit is reading their weights.
template <class P>
void one_token(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  constexpr index_t in = mini.hidden, out = mini.expert_inner;
  support::tensor<activation<P>> x(mini.top_k, in), y(mini.top_k, out);
  support::tensor<weight<P>, 3> w(mini.experts, out, in);
  x.normal(1), w.normal(2);
  std::vector<std::int32_t> counts(mini.experts), offsets{0};
  for (index_t e = 0; e < mini.experts; ++e) {
    counts[static_cast<std::size_t>(e)] = e * mini.top_k % mini.experts < mini.top_k ? 1 : 0;
    offsets.push_back(offsets.back() + counts[static_cast<std::size_t>(e)]);
  }
  const view<const std::int32_t, 1> starts{offsets.data(), mini.experts + 1},
      rows_of{counts.data(), mini.experts};
  const auto work = [&](auto& ctx) {
    dsv3::op::grouped_gemm<P>::forward(ctx, {.x = {x, starts, rows_of}, .w = w, .y = {y, starts, rows_of}});
  };
  host_memory memory;
  cpu_context<> ctx{.threads = threads};
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  for (auto _ : state) work(ctx);
  support::count_bytes(state, static_cast<double>(mini.top_k * in * out) * sizeof(weight<P>), threads);
}
BENCHMARK_TEMPLATE(one_token, fp32)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(one_token, bf16_mixed)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
