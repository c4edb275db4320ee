// SPDX-License-Identifier: MIT
// Quantising on a GPU moves memory: its limit is the copy bandwidth.
#include <dsv3/cuda/quant/tile_quantizer.cuh>

#include <support/device_tiles.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

constexpr index_t tokens = 4 * support::deepseek_v3.tokens, hidden = support::deepseek_v3.hidden;

template <class From, class Tile>
struct tensors {
  support::device_tensor<From> wide{tokens, hidden};
  support::device_tiles<Tile> narrow{
      tokens, hidden, Tile::rows == 1 ? support::tiles_lie::by_column : support::tiles_lie::by_row};

  tensors() { wide.normal(1); }
  double bytes() const { return static_cast<double>(wide.bytes()) + narrow.bytes(); }
};

template <class From, class Tile, scale_kind Kind>
void forward(benchmark::State& state) {
  tensors<From, Tile> t;
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::tile_quantizer<From, fp8_e4m3, Tile>::forward(ctx,
                                                      {.x = t.wide, .y = t.narrow.get(), .scales = Kind});
  });
  support::count_bytes(state, t.bytes());
}

/// One scale for all, for which everything is read twice.
template <class From>
void forward_of_tensor(benchmark::State& state) {
  tensors<From, row_tile> t;
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::tile_quantizer<From, fp8_e4m3, row_tile>::forward(
        ctx, {.x = t.wide, .y = t.narrow.get(), .group = scale_group::tensor});
  });
  support::count_bytes(state, t.bytes() + static_cast<double>(t.wide.bytes()));
}

template <class From, class Tile>
void dequantize(benchmark::State& state) {
  tensors<From, Tile> t;
  auto ctx = support::context<>();
  op::tile_quantizer<From, fp8_e4m3, Tile>::forward(ctx, {.x = t.wide, .y = t.narrow.get()});
  support::time_on<backend::cuda>(state, [&](auto& timed) {
    op::tile_quantizer<From, fp8_e4m3, Tile>::dequantize(timed, {.x = t.narrow.get(), .y = t.wide});
  });
  support::count_bytes(state, t.bytes());
}

constexpr scale_kind real = scale_kind::real, power_of_two = scale_kind::power_of_two;

BENCHMARK_TEMPLATE(forward, bf16, row_tile, real)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, bf16, row_tile, power_of_two)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, bf16, column_tile, real)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, bf16, block_tile, real)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, float, row_tile, real)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, float, block_tile, real)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward_of_tensor, bf16)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(dequantize, bf16, row_tile)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(dequantize, bf16, column_tile)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(dequantize, bf16, block_tile)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(dequantize, float, block_tile)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
