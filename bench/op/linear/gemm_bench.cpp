// SPDX-License-Identifier: MIT
// The linear layer's three products: their limit is arithmetic.
#include <dsv3/cpu/linear/gemm.hpp>
#include <dsv3/exec/measure.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

struct extents {
  index_t tokens, in, out;
};
using support::mini;
constexpr extents square{mini.tokens, mini.hidden, mini.hidden};
constexpr extents widen{mini.tokens, mini.hidden, mini.inner};
constexpr extents narrow{mini.tokens, mini.inner, mini.hidden};
constexpr extents logits{mini.tokens, mini.hidden, mini.vocab};
constexpr extents one_expert{mini.tokens * mini.top_k / mini.experts, mini.hidden, mini.expert_inner};
// One block of the real model's queries; its whole matrices take minutes on a few cores.
constexpr extents v3_queries{512, support::deepseek_v3.q_rank, 4096};

enum class pass { forward, data, weights };

template <class P, pass Pass, const extents& E>
void gemm(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  support::tensor<activation<P>> x(E.tokens, E.in), y(E.tokens, E.out), dx(E.tokens, E.in);
  support::tensor<weight<P>> w(E.out, E.in);
  support::tensor<gradient<P>> dw(E.out, E.in);
  x.normal(1), y.normal(2), w.normal(3);
  const auto work = [&](auto& ctx) {
    using op = dsv3::op::gemm<P>;
    if constexpr (Pass == pass::forward) op::forward(ctx, {.x = x, .w = w, .y = y});
    if constexpr (Pass == pass::data) op::backward_data(ctx, {.dy = y, .w = w, .dx = dx});
    if constexpr (Pass == pass::weights) op::backward_weights(ctx, {.dy = y, .x = x, .dw = dw});
  };
  host_memory memory;
  cpu_context<> ctx{.threads = threads};
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  for (auto _ : state) work(ctx);
  support::count_flops(state, 2.0 * static_cast<double>(E.tokens * E.in * E.out), threads);
}

BENCHMARK_TEMPLATE(gemm, fp32, pass::forward, square)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, fp32, pass::data, square)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, fp32, pass::weights, square)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, fp32, pass::forward, widen)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, fp32, pass::data, widen)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, fp32, pass::weights, widen)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, fp32, pass::forward, narrow)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, fp32, pass::forward, logits)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, fp32, pass::forward, one_expert)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, fp32, pass::forward, v3_queries)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::forward, square)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::data, square)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::weights, square)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, bf16_mixed, pass::forward, v3_queries)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(gemm, fp64_reference, pass::forward, square)->Apply(support::on_threads);

/// As many tokens as decoding has at once: the limit is reading the weights.
template <class P, index_t In, index_t Out>
void few_tokens(benchmark::State& state) {
  using op = dsv3::op::gemm<P>;
  const int threads = static_cast<int>(state.range(0));
  const index_t tokens = state.range(1);
  support::tensor<activation<P>> x(tokens, In), y(tokens, Out);
  support::tensor<weight<P>> w(Out, In);
  x.normal(1), w.normal(2);
  const auto work = [&](auto& ctx) { op::forward(ctx, {.x = x, .w = w, .y = y}); };
  host_memory memory;
  cpu_context<> ctx{.threads = threads};
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  for (auto _ : state) work(ctx);
  support::count_flops(state, 2.0 * static_cast<double>(tokens * In * Out), threads);
  support::count_bytes(state, static_cast<double>(w.bytes()), threads);
}
void tokens_and_threads(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"threads", "tokens"})->ArgsProduct({{1, 2}, {1, 2, 4, 8, 16}})->UseRealTime();
}
BENCHMARK_TEMPLATE(few_tokens, fp32, mini.hidden, mini.hidden)->Apply(tokens_and_threads);
BENCHMARK_TEMPLATE(few_tokens, fp32, mini.hidden, mini.vocab)->Apply(tokens_and_threads);
BENCHMARK_TEMPLATE(few_tokens, fp32, support::deepseek_v3.hidden, 4096)->Apply(tokens_and_threads);
BENCHMARK_TEMPLATE(few_tokens, bf16_mixed, mini.hidden, mini.hidden)->Apply(tokens_and_threads);
BENCHMARK_TEMPLATE(few_tokens, bf16_mixed, mini.hidden, mini.vocab)->Apply(tokens_and_threads);
BENCHMARK_TEMPLATE(few_tokens, bf16_mixed, support::deepseek_v3.hidden, 4096)->Apply(tokens_and_threads);

/// The loop that products run in where there is no BLAS, one product on one thread.
void own_loop(benchmark::State& state) {
  support::tensor<float> a(square.tokens, square.in), b(square.out, square.in), c(square.tokens, square.out);
  a.normal(1), b.normal(2);
  for (auto _ : state)
    cpu::blocked_product(cpu::transpose::no, cpu::transpose::yes, square.tokens, square.out, square.in, 1,
                         a.get().data(), square.in, b.get().data(), square.in, 0, c.get().data(), square.out);
  support::count_flops(state, 2.0 * static_cast<double>(square.tokens * square.in * square.out), 1);
}
BENCHMARK(own_loop)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
