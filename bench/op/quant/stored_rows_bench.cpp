// SPDX-License-Identifier: MIT
// Activations to fewer bytes and back: memory is the limit, packing of twelve bits comes close to being one.
#include <dsv3/cpu/quant/stored_rows.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;
using P = fp8_tilewise;

/// The attention's output of one layer.
template <stored_format Format, const support::model_sizes& Sizes>
struct tensors {
  narrow_rows_config config{Sizes.tokens, Sizes.heads* Sizes.v_dim, Format};
  support::tensor<activation<P>, 2> wide{config.rows, config.columns};
  support::tensor<std::uint8_t, 2> bytes{config.rows, config.row_bytes()};
  support::tensor<float, 2> scales{config.rows, config.row_scales()};
  cpu_context<> ctx;

  explicit tensors(int threads) : ctx{.threads = threads} {
    wide.normal(1);
    op::stored_rows<P>::store(ctx, {.x = wide, .y = narrow(), .scales = scale_kind::power_of_two});
  }
  narrow_rows narrow() { return {config, bytes, scales}; }
  double moved() const { return double(wide.bytes() + bytes.bytes() + scales.bytes()); }
};

template <stored_format Format, const support::model_sizes& Sizes>
void store(benchmark::State& state) {
  tensors<Format, Sizes> t(static_cast<int>(state.range(0)));
  for (auto _ : state)
    op::stored_rows<P>::store(t.ctx, {.x = t.wide, .y = t.narrow(), .scales = scale_kind::power_of_two});
  support::count_bytes(state, t.moved(), t.ctx.threads);
}

template <stored_format Format, const support::model_sizes& Sizes>
void load(benchmark::State& state) {
  tensors<Format, Sizes> t(static_cast<int>(state.range(0)));
  for (auto _ : state) op::stored_rows<P>::load(t.ctx, {.x = t.narrow(), .y = t.wide});
  support::count_bytes(state, t.moved(), t.ctx.threads);
}

BENCHMARK_TEMPLATE(store, stored_format::e5m6, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(store, stored_format::e4m3, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(store, stored_format::bf16, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(load, stored_format::e5m6, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(load, stored_format::e4m3, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(load, stored_format::bf16, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(store, stored_format::e5m6, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(load, stored_format::e5m6, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
