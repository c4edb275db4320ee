// SPDX-License-Identifier: MIT
// The experts' products over scaled tiles on a GPU: their limit is the matrix units' rate on 8 bits.
#include <dsv3/cuda/linear/scaled_grouped_gemm.cuh>
#include <dsv3/cuda/linear/scaled_grouped_gemm_sm90.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

#include <cstdint>

namespace {

using namespace dsv3;
using support::deepseek_v3;

struct extents {
  index_t in, out;
};
constexpr extents gate_up{deepseek_v3.hidden, 2 * deepseek_v3.expert_inner};
constexpr extents down{deepseek_v3.expert_inner, deepseek_v3.hidden};
constexpr extents small{2048, 2048};  // of a model of 3 billion parameters

/// even     every expert has as many rows, a multiple of 128
/// uneven   up to 30 % more or less, the next expert begins at a multiple of 128
/// masked   as uneven, but every expert has the same room
enum class rows_lie { even, uneven, masked };

/// The experts' rows, in the GPU's memory.
struct rows_of_experts {
  support::device_tensor<std::int32_t, 1> offsets, counts;
  index_t capacity = 0, live = 0;

  rows_of_experts(index_t experts, index_t rows, rows_lie lie) : offsets(experts + 1), counts(experts) {
    const auto count = [&](index_t i) {
      return static_cast<std::int32_t>(lie == rows_lie::even ? rows : rows * (7 + i * 5 % 7) / 10);
    };
    counts.generate(count);
    offsets.generate([&](index_t i) {
      const index_t first = capacity;
      if (i < experts) {
        live += count(i);
        capacity += round_up(lie == rows_lie::masked ? rows * 13 / 10 : count(i), 128);
      }
      return static_cast<std::int32_t>(first);
    });
  }
  row_groups groups() const { return {offsets, counts, 128}; }
};

enum class pass { forward, data, weights };

template <pass Pass, const extents& E, rows_lie Lie, class Backend>
void scaled_grouped_gemm(benchmark::State& state) {
  using op = dsv3::op::scaled_grouped_gemm<fp8_tilewise>;
  const index_t experts = state.range(0);
  const rows_of_experts rows(experts, state.range(1), Lie);
  const index_t capacity = rows.capacity;
  const row_groups groups = rows.groups();
  const index_t tiles = groups.tiles(capacity);
  using operand = support::device_scaled_tensor<fp8_e4m3, row_tile>;
  constexpr bool transposed = Pass == pass::weights;
  const operand x = transposed ? operand(E.in, capacity, tiles, 1) : operand(capacity, E.in, 1),
                dy = transposed ? operand(E.out, capacity, tiles, 2) : operand(capacity, E.out, 2);
  const support::device_scaled_tensor<fp8_e4m3, block_tile, 3> w(transposed ? 1 : experts, E.out, E.in, 3);
  const support::device_tensor<bf16> y(capacity, E.out), dx(capacity, E.in);
  const support::device_tensor<float, 3> dw(transposed ? experts : 1, E.out, E.in);
  support::time_on<Backend>(state, [&](auto& ctx) {
    if constexpr (Pass == pass::forward)
      op::forward(ctx, {.x = x.get(), .w = w.get(), .groups = groups, .y = y});
    if constexpr (Pass == pass::data)
      op::backward_data(ctx, {.dy = dy.get(), .w = w.get(), .groups = groups, .dx = dx});
    if constexpr (Pass == pass::weights)
      op::backward_weights(ctx, {.dy_t = dy.get(), .x_t = x.get(), .groups = groups, .dw = dw});
  });
  support::count_flops<fp8_e4m3>(state, 2.0 * static_cast<double>(rows.live * E.in * E.out));
}

void many_rows(benchmark::internal::Benchmark* bench) {
  support::on_gpu(bench);
  bench->Args({8, 4096});
}
void all_rows(benchmark::internal::Benchmark* bench) {
  support::on_gpu(bench);
  bench->Args({4, 8192})->Args({8, 4096})->Args({32, 1024});
}
void small_rows(benchmark::internal::Benchmark* bench) {
  support::on_gpu(bench);
  bench->Args({64, 1536});
}
void few_rows(benchmark::internal::Benchmark* bench) {
  support::on_gpu(bench);
  bench->Args({1, 1024})->Args({4, 256})->Args({32, 192})->Args({32, 20});
}

BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, gate_up, rows_lie::even, backend::hopper)
    ->Apply(all_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, down, rows_lie::even, backend::hopper)
    ->Apply(all_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, gate_up, rows_lie::uneven, backend::hopper)
    ->Apply(many_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, gate_up, rows_lie::masked, backend::hopper)
    ->Apply(few_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, down, rows_lie::masked, backend::hopper)
    ->Apply(few_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::data, gate_up, rows_lie::even, backend::hopper)
    ->Apply(many_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::data, down, rows_lie::even, backend::hopper)->Apply(many_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::weights, gate_up, rows_lie::even, backend::hopper)
    ->Apply(all_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::weights, gate_up, rows_lie::uneven, backend::hopper)
    ->Apply(many_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::weights, down, rows_lie::even, backend::hopper)
    ->Apply(many_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, small, rows_lie::uneven, backend::hopper)
    ->Apply(small_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::data, small, rows_lie::uneven, backend::hopper)
    ->Apply(small_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::weights, small, rows_lie::uneven, backend::hopper)
    ->Apply(small_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::forward, gate_up, rows_lie::even, backend::cuda)
    ->Apply(many_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::data, gate_up, rows_lie::even, backend::cuda)->Apply(many_rows);
BENCHMARK_TEMPLATE(scaled_grouped_gemm, pass::weights, gate_up, rows_lie::even, backend::cuda)
    ->Apply(many_rows);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
