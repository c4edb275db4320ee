// SPDX-License-Identifier: MIT
// Tokens to the experts' rows in 8 bits on a GPU: a token is read once and written once for each of its
// experts.
#include <dsv3/cuda/expert/permute.cuh>
#include <dsv3/cuda/quant/dispatch_quantizer.cuh>

#include <support/device_tiles.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using P = fp8_tilewise;

void forward(benchmark::State& state) {
  constexpr support::model_sizes m = support::deepseek_v3;
  const permutation_config config{.tokens = m.tokens, .top_k = m.top_k, .experts = m.experts};
  const index_t capacity = config.row_capacity();
  support::device_tensor<std::int32_t> ids(config.tokens, config.top_k);
  const support::device_tensor<std::int32_t> row_of(config.tokens, config.top_k);
  const support::device_tensor<std::int32_t, 1> offsets(config.experts + 1), counts(config.experts),
      token_of(capacity);
  support::device_tensor<activation<P>> x(config.tokens, m.hidden);
  const support::device_tiles<row_tile> rows(capacity, m.hidden, support::tiles_lie::by_column);
  x.normal(1);
  const random_stream random(20260101, 2);
  ids.generate([&](index_t i) {
    const auto token = static_cast<std::uint64_t>(i / m.top_k);
    const auto first = static_cast<index_t>(random.below(static_cast<std::uint64_t>(m.experts), token));
    return static_cast<std::int32_t>((first + 13 * (i % m.top_k)) % m.experts);
  });
  const permutation plan{config, offsets, counts, row_of, token_of};
  auto ctx = support::context<>();
  const auto plan_rows = [&](auto& on) { op::permute<P>::plan(on, {.ids = ids, .plan = plan}); };
  ctx.scratch = scratch_arena{support::gpu_memory(), measure(ctx, plan_rows)};
  plan_rows(ctx);
  support::time_on<backend::cuda>(state, [&](auto& timed) {
    op::dispatch_quantizer<P>::forward(timed, {.x = x, .plan = plan, .rows = rows.get()});
  });
  support::count_bytes(state, static_cast<double>(x.bytes()) + rows.bytes());
}

BENCHMARK(forward)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
