// SPDX-License-Identifier: MIT
// Quantising moves memory: its limit is the copy bandwidth.
#include <dsv3/cpu/quant/tile_quantizer.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

template <class From, class Tile>
struct tensors {
  support::tensor<From, 2> wide;
  support::tensor<fp8_e4m3, 2> codes;
  support::tensor<float, 2> scales;

  explicit tensors(const support::model_sizes& m)
      : wide(m.tokens, m.hidden),
        codes(m.tokens, m.hidden),
        scales(ceil_div(m.tokens, Tile::rows), ceil_div(m.hidden, Tile::columns)) {
    wide.normal(1);
  }
  scaled_view<fp8_e4m3, Tile> narrow() const {
    const auto s = scales.get();
    const index_t extents[] = {s.extent(0), s.extent(1)}, strides[] = {s.stride(0), 1};
    return {codes, {s.data(), extents, strides}};
  }
  double bytes() const { return static_cast<double>(wide.bytes() + codes.bytes() + scales.bytes()); }
};

template <class From, class Tile, scale_kind Kind, const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tensors<From, Tile> t(Sizes);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state)
    op::tile_quantizer<From, fp8_e4m3, Tile>::forward(ctx, {.x = t.wide, .y = t.narrow(), .scales = Kind});
  support::count_bytes(state, t.bytes(), threads);
}

template <class From, class Tile, const support::model_sizes& Sizes>
void dequantize(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tensors<From, Tile> t(Sizes);
  cpu_context<> ctx{.threads = threads};
  op::tile_quantizer<From, fp8_e4m3, Tile>::forward(ctx, {.x = t.wide, .y = t.narrow()});
  for (auto _ : state)
    op::tile_quantizer<From, fp8_e4m3, Tile>::dequantize(ctx, {.x = t.narrow(), .y = t.wide});
  support::count_bytes(state, t.bytes(), threads);
}

constexpr scale_kind real = scale_kind::real, power_of_two = scale_kind::power_of_two;

BENCHMARK_TEMPLATE(forward, bf16, row_tile, real, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16, row_tile, power_of_two, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16, column_tile, real, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16, block_tile, real, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, float, row_tile, real, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, float, block_tile, real, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16, row_tile, real, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, float, block_tile, real, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(dequantize, bf16, row_tile, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(dequantize, bf16, column_tile, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(dequantize, float, block_tile, support::deepseek_v3)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
