// SPDX-License-Identifier: MIT
// The linear layer's products over scaled tiles: their limit is arithmetic, their measure bf16's products.
#include <dsv3/cpu/linear/gemm.hpp>
#include <dsv3/cpu/linear/scaled_gemm.hpp>
#include <dsv3/exec/measure.hpp>

#include <support/counters.hpp>
#include <support/scaled_tensor.hpp>
#include <support/sizes.hpp>

#include <benchmark/benchmark.h>

#include <map>

namespace {

using namespace dsv3;
using support::deepseek_v3, support::mini;

struct extents {
  index_t tokens, in, out;
};
// The real model's matrices, in part where all of them takes seconds on a few cores.
constexpr extents joint_down{512, deepseek_v3.hidden, deepseek_v3.q_rank + deepseek_v3.kv_rank + 64};
constexpr extents latents_down{512, deepseek_v3.hidden, deepseek_v3.kv_rank + 64};  // 4.5 blocks
constexpr extents queries_up{512, deepseek_v3.q_rank, 4096};
constexpr extents keys_values_up{512, deepseek_v3.kv_rank, 4096};
constexpr extents output{512, 16384, 512};
constexpr extents expert_gate_up{128, deepseek_v3.hidden, 2 * deepseek_v3.expert_inner};
constexpr extents expert_down{128, deepseek_v3.expert_inner, deepseek_v3.hidden};
constexpr extents widen{mini.tokens, mini.hidden, mini.inner};

enum class pass { forward, data, weights };

template <class Work>
double seconds_of(int threads, Work&& work) {
  host_memory memory;
  cpu_context<> ctx{.threads = threads};
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  return support::detail::best_seconds(3, [&] { work(ctx); });
}

/// Seconds of the same product of bf16 numbers, measured once in this process.
template <pass Pass, const extents& E>
double bf16_seconds(int threads) {
  static std::map<int, double> known;
  if (const auto found = known.find(threads); found != known.end()) return found->second;
  using op = dsv3::op::gemm<bf16_mixed>;
  support::tensor<bf16> x(E.tokens, E.in), y(E.tokens, E.out), dx(E.tokens, E.in), w(E.out, E.in);
  support::tensor<float> dw(E.out, E.in);
  x.normal(1), y.normal(2), w.normal(3);
  return known[threads] = seconds_of(threads, [&](auto& ctx) {
           if constexpr (Pass == pass::forward) op::forward(ctx, {.x = x, .w = w, .y = y});
           if constexpr (Pass == pass::data) op::backward_data(ctx, {.dy = y, .w = w, .dx = dx});
           if constexpr (Pass == pass::weights) op::backward_weights(ctx, {.dy = y, .x = x, .dw = dw});
         });
}

template <pass Pass, const extents& E, accumulator_model Accumulator>
void scaled_gemm(benchmark::State& state) {
  using op = dsv3::op::scaled_gemm<fp8_tilewise>;
  const int threads = static_cast<int>(state.range(0));
  const scaled_product_options product{Accumulator, 128};
  const bool transposed = Pass == pass::weights;
  support::scaled_tensor<fp8_e4m3, row_tile> x(transposed ? E.in : E.tokens, transposed ? E.tokens : E.in, 1),
      dy(transposed ? E.out : E.tokens, transposed ? E.tokens : E.out, 2);
  support::scaled_tensor<fp8_e4m3, block_tile> w(E.out, E.in, 3);
  support::tensor<bf16> y(E.tokens, E.out), dx(E.tokens, E.in);
  support::tensor<float> dw(E.out, E.in);
  const auto work = [&](auto& ctx) {
    if constexpr (Pass == pass::forward)
      op::forward(ctx, {.x = x.get(), .w = w.get(), .y = y, .product = product});
    if constexpr (Pass == pass::data)
      op::backward_data(ctx, {.dy = dy.get(), .w = w.get(), .dx = dx, .product = product});
    if constexpr (Pass == pass::weights)
      op::backward_weights(ctx, {.dy_t = dy.get(), .x_t = x.get(), .dw = dw, .product = product});
  };
  host_memory memory;
  cpu_context<> ctx{.threads = threads};
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  for (auto _ : state) work(ctx);
  support::count_flops(state, 2.0 * static_cast<double>(E.tokens * E.in * E.out), threads);
  state.counters["of_bf16"] = {bf16_seconds<Pass, E>(threads), benchmark::Counter::kIsIterationInvariantRate};
}

constexpr accumulator_model floats = accumulator_model::fp32, few_bits = accumulator_model::hopper_fp22;
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, widen, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::data, widen, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::weights, widen, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, joint_down, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, latents_down, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::data, latents_down, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::weights, latents_down, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, queries_up, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, keys_values_up, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, output, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, expert_gate_up, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, expert_down, floats)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, widen, few_bits)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::data, widen, few_bits)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::weights, widen, few_bits)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(scaled_gemm, pass::forward, latents_down, few_bits)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
