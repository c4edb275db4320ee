// SPDX-License-Identifier: MIT
// Tokens to the experts' rows in 8 bits: a token is read once and written once for each of its experts.
#include <dsv3/cpu/expert/permute.hpp>
#include <dsv3/cpu/quant/dispatch_quantizer.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;
using P = fp8_tilewise;

template <const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  const permutation_config config{.tokens = Sizes.tokens, .top_k = Sizes.top_k, .experts = Sizes.experts};
  const index_t rows = config.row_capacity(), tiles = ceil_div(Sizes.hidden, 128);
  support::tensor<std::int32_t, 2> ids(config.tokens, config.top_k), row_of(config.tokens, config.top_k);
  support::tensor<std::int32_t, 1> offsets(config.experts + 1), counts(config.experts), token_of(rows);
  support::tensor<activation<P>, 2> x(config.tokens, Sizes.hidden);
  support::tensor<fp8_e4m3, 2> codes(rows, Sizes.hidden);
  support::tensor<float, 2> scales(tiles, rows);
  x.normal(1);
  const random_stream random(20260101, 2);
  for (index_t t = 0; t < config.tokens; ++t) {
    const auto first = static_cast<index_t>(
        random.below(static_cast<std::uint64_t>(config.experts), static_cast<std::uint64_t>(t)));
    for (index_t k = 0; k < config.top_k; ++k)
      ids.get()(t, k) = static_cast<std::int32_t>((first + 13 * k) % config.experts);
  }
  host_memory memory;
  cpu_context<> ctx{.threads = static_cast<int>(state.range(0)),
                    .scratch = scratch_arena{memory, std::size_t{1} << 20}};
  const permutation plan{config, offsets, counts, row_of, token_of};
  op::permute<P>::plan(ctx, {.ids = ids, .plan = plan});
  const index_t extents[] = {rows, tiles}, strides[] = {1, rows};  // tokens side by side
  for (auto _ : state)
    op::dispatch_quantizer<P>::forward(
        ctx, {.x = x, .plan = plan, .rows = {codes, {scales.get().data(), extents, strides}}});
  support::count_bytes(state, double(x.bytes() + codes.bytes() + scales.bytes()), ctx.threads);
}

BENCHMARK_TEMPLATE(forward, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
