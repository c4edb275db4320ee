// SPDX-License-Identifier: MIT
// AdamW over the experts' weights into tiles on a GPU: 12 bytes read and 9 written for a weight.
#include <dsv3/cuda/quant/adamw_quantizer.cuh>

#include <support/device_tiles.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using P = fp8_tilewise;

template <index_t Rows, index_t Columns>
void step(benchmark::State& state) {
  constexpr index_t n = Rows * Columns;
  support::device_tensor<gradient<P>, 1> g(n);
  support::device_tensor<master<P>, 1> p(n);
  const support::device_tensor<moment<P>, 1> m(n), v(n);
  support::device_tensor<double, 1> scale(1), pace(3);
  const support::device_tiles<block_tile> w(Rows, Columns);
  const auto now = adamw_config{}.pace(1e-4, 1);
  g.normal(1, 1e-3), p.normal(2, 0.006), scale.fill(1);
  pace.generate([&](index_t i) { return now[static_cast<std::size_t>(i)]; });
  const auto tiles = w.get();
  const scaled_view<fp8_e4m3, block_tile, 3> stack{
      view{tiles.values.data(), index_t{1}, Rows, Columns},
      view<float, 3, strided>{tiles.scales.data(), index_t{1}, Rows / 128, Columns / 128}};
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::adamw_quantizer<P>::step(
        ctx, {.g = g, .scale = scale, .p = p, .w = stack, .m = m, .v = v, .config = {}, .pace = pace});
  });
  const double moved =
      static_cast<double>(g.bytes()) + 2 * static_cast<double>(p.bytes() + m.bytes() + v.bytes()) + w.bytes();
  support::count_bytes(state, moved);
}

constexpr support::model_sizes v3 = support::deepseek_v3;
BENCHMARK_TEMPLATE(step, 2 * v3.expert_inner, v3.hidden)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
