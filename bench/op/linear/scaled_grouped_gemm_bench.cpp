// SPDX-License-Identifier: MIT
// The experts' products over scaled tiles: their limit is arithmetic, their measure bf16's products.
#include <dsv3/cpu/linear/grouped_gemm.hpp>
#include <dsv3/cpu/linear/scaled_grouped_gemm.hpp>
#include <dsv3/exec/measure.hpp>

#include <support/counters.hpp>
#include <support/scaled_tensor.hpp>
#include <support/sizes.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <map>
#include <vector>

namespace {

using namespace dsv3;
using support::deepseek_v3, support::mini;

/// Experts of one model, and the rows of each; one in eight has none, and the others differ by 30 %.
struct experts {
  index_t number, rows, in, out;
};
constexpr experts small{mini.experts, mini.tokens* mini.top_k / mini.experts, mini.hidden, mini.expert_inner};
constexpr experts real_up{4, 128, deepseek_v3.hidden, 512};  // a part of the real model's columns
constexpr experts real_down{4, 128, deepseek_v3.expert_inner, 2048};

enum class pass { forward, data, weights };
enum class layout { contiguous, masked };

struct rows_of_experts {
  std::vector<std::int32_t> offsets{0}, counts;
  index_t live = 0;

  rows_of_experts(const experts& e, layout rows_lie) {
    for (index_t i = 0; i < e.number; ++i) {
      const index_t count = i % 8 == 7 ? 0 : e.rows * (7 + i * 5 % 7) / 10;
      const index_t room =
          rows_lie == layout::masked ? round_up(e.rows * 13 / 10, 128) : round_up(count, 128);
      counts.push_back(static_cast<std::int32_t>(count));
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(room));
      live += count;
    }
  }
  index_t capacity() const { return offsets.back(); }
  row_groups groups() const {
    const auto number = static_cast<index_t>(counts.size());
    return {view<const std::int32_t, 1>{offsets.data(), number + 1},
            view<const std::int32_t, 1>{counts.data(), number}};
  }
};

template <class Work>
double seconds_of(int threads, Work&& work) {
  host_memory memory;
  cpu_context<> ctx{.threads = threads};
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  return support::detail::best_seconds(3, [&] { work(ctx); });
}

/// Seconds of the same products of bf16 numbers, measured once in this process.
template <pass Pass, const experts& E, layout Layout>
double bf16_seconds(int threads) {
  static std::map<int, double> known;
  if (const auto found = known.find(threads); found != known.end()) return found->second;
  using op = dsv3::op::grouped_gemm<bf16_mixed>;
  const rows_of_experts rows(E, Layout);
  const row_groups groups = rows.groups();
  support::tensor<bf16> x(rows.capacity(), E.in), y(rows.capacity(), E.out), dx(rows.capacity(), E.in);
  support::tensor<bf16, 3> w(E.number, E.out, E.in);
  support::tensor<float, 3> dw(E.number, E.out, E.in);
  x.normal(1), y.normal(2), w.normal(3);
  const auto ragged = [&](auto& tensor) {
    return ragged_view<bf16>{tensor.get(), groups.offsets, groups.counts};
  };
  return known[threads] = seconds_of(threads, [&](auto& ctx) {
           if constexpr (Pass == pass::forward) op::forward(ctx, {.x = ragged(x), .w = w, .y = ragged(y)});
           if constexpr (Pass == pass::data)
             op::backward_data(ctx, {.dy = ragged(y), .w = w, .dx = ragged(dx)});
           if constexpr (Pass == pass::weights)
             op::backward_weights(ctx, {.dy = ragged(y), .x = ragged(x), .dw = dw});
         });
}

template <pass Pass, const experts& E, layout Layout, accumulator_model Accumulator>
void scaled_grouped_gemm(benchmark::State& state) {
  using op = dsv3::op::scaled_grouped_gemm<fp8_tilewise>;
  const int threads = static_cast<int>(state.range(0));
  const scaled_product_options product{Accumulator, 128};
  const rows_of_experts rows(E, Layout);
  const row_groups groups = rows.groups();
  const index_t capacity = rows.capacity(), tiles = groups.tiles(capacity);
  using operand = support::scaled_tensor<fp8_e4m3, row_tile>;
  const bool transposed = Pass == pass::weights;
  const operand x = transposed ? operand(E.in, capacity, tiles, 1) : operand(capacity, E.in, 1),
                dy = transposed ? operand(E.out, capacity, tiles, 2) : operand(capacity, E.out, 2);
  const support::scaled_tensor<fp8_e4m3, block_tile, 3> w(E.number, E.out, E.in, 3);
  support::tensor<bf16> y(capacity, E.out), dx(capacity, E.in);
  support::tensor<float, 3> dw(E.number, E.out, E.in);
  const auto work = [&](auto& ctx) {
    if constexpr (Pass == pass::forward)
      op::forward(ctx, {.x = x.get(), .w = w.get(), .groups = groups, .y = y, .product = product});
    if constexpr (Pass == pass::data)
      op::backward_data(ctx, {.dy = dy.get(), .w = w.get(), .groups = groups, .dx = dx, .product = product});
    if constexpr (Pass == pass::weights)
      op::backward_weights(
          ctx, {.dy_t = dy.get(), .x_t = x.get(), .groups = groups, .dw = dw, .product = product});
  };
  host_memory memory;
  cpu_context<> ctx{.threads = threads};
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  for (auto _ : state) work(ctx);
  support::count_flops(state, 2.0 * static_cast<double>(rows.live * E.in * E.out), threads);
  state.counters["of_bf16"] = {bf16_seconds<Pass, E, Layout>(threads),
                               benchmark::Counter::kIsIterationInvariantRate};
}

constexpr accumulator_model floats = accumulator_model::fp32, few_bits = accumulator_model::hopper_fp22;
constexpr layout contiguous = layout::contiguous, masked = layout::masked;
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, small, contiguous, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::data, small, contiguous, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::weights, small, contiguous, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, small, masked, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::weights, small, masked, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, real_up, contiguous, floats)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::data, real_up, contiguous, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::weights, real_up, contiguous, floats)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, real_down, contiguous, floats)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, small, contiguous, few_bits)
    ->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::weights, small, contiguous, few_bits)
    ->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
