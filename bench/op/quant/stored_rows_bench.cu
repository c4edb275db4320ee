// SPDX-License-Identifier: MIT
// Activations to fewer bytes and back on a GPU: the limit is the copy bandwidth.
#include <dsv3/cuda/quant/stored_rows.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using P = fp8_tilewise;

/// The attention's output of one layer.
template <stored_format Format>
struct tensors {
  narrow_rows_config config{4 * support::deepseek_v3.tokens,
                            support::deepseek_v3.heads* support::deepseek_v3.v_dim, Format};
  support::device_tensor<activation<P>> wide{config.rows, config.columns};
  support::device_tensor<std::uint8_t> bytes{config.rows, config.row_bytes()};
  support::device_tensor<float> scales{config.rows, std::max<index_t>(config.row_scales(), 1)};

  tensors() {
    wide.normal(1);
    auto ctx = support::context<>();
    store(ctx);
  }
  narrow_rows narrow() {
    return {config, bytes, config.row_scales() > 0 ? scales.get() : dsv3::view<float, 2>{}};
  }
  template <class Ctx>
  void store(Ctx& ctx) {
    op::stored_rows<P>::store(ctx, {.x = wide, .y = narrow(), .scales = scale_kind::power_of_two});
  }
  double moved() const {
    return static_cast<double>(wide.bytes() + bytes.bytes() + 4 * config.rows * config.row_scales());
  }
};

template <stored_format Format>
void store(benchmark::State& state) {
  tensors<Format> t;
  support::time_on<backend::cuda>(state, [&](auto& ctx) { t.store(ctx); });
  support::count_bytes(state, t.moved());
}

template <stored_format Format>
void load(benchmark::State& state) {
  tensors<Format> t;
  support::time_on<backend::cuda>(
      state, [&](auto& ctx) { op::stored_rows<P>::load(ctx, {.x = t.narrow(), .y = t.wide}); });
  support::count_bytes(state, t.moved());
}

BENCHMARK_TEMPLATE(store, stored_format::e5m6)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(store, stored_format::e4m3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(store, stored_format::bf16)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(load, stored_format::e5m6)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(load, stored_format::e4m3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(load, stored_format::bf16)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
