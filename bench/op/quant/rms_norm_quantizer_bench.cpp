// SPDX-License-Identifier: MIT
// RMSNorm into tiles, with the residual addition before it and without.
#include <dsv3/cpu/quant/rms_norm_quantizer.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;
using P = fp8_tilewise;

template <const support::model_sizes& Sizes, bool Residual>
void forward(benchmark::State& state) {
  constexpr index_t tokens = Sizes.tokens, hidden = Sizes.hidden;
  support::tensor<activation<P>, 2> x(tokens, hidden), residual(tokens, hidden), sum(tokens, hidden);
  support::tensor<master<P>, 1> gain(hidden);
  support::tensor<fp8_e4m3, 2> codes(tokens, hidden);
  support::tensor<float, 2> scales(ceil_div(hidden, 128), tokens);
  x.normal(1), residual.normal(2), gain.normal(3);
  const index_t extents[] = {tokens, ceil_div(hidden, 128)}, strides[] = {1, tokens};  // tokens side by side
  cpu_context<> ctx{.threads = static_cast<int>(state.range(0))};
  op::rms_norm_quantizer<P>::forward_args args{.plain = {.x = x, .gain = gain, .y = {}},
                                               .y = {codes, {scales.get().data(), extents, strides}}};
  if (Residual) args.plain.residual = residual, args.plain.sum = sum;
  for (auto _ : state) op::rms_norm_quantizer<P>::forward(ctx, args);
  support::count_bytes(state, double((Residual ? 3 : 1) * x.bytes() + codes.bytes() + scales.bytes()),
                       ctx.threads);
}

BENCHMARK_TEMPLATE(forward, support::deepseek_v3, false)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::deepseek_v3, true)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::mini, false)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
