// SPDX-License-Identifier: MIT
// RMSNorm into tiles on a GPU, with the residual addition before it and without.
#include <dsv3/cuda/quant/rms_norm_quantizer.cuh>

#include <support/device_tiles.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using P = fp8_tilewise;

template <index_t Hidden, bool Residual>
void forward(benchmark::State& state) {
  constexpr index_t tokens = 4 * support::deepseek_v3.tokens;
  support::device_tensor<activation<P>> x(tokens, Hidden), residual(tokens, Hidden), sum(tokens, Hidden);
  support::device_tensor<master<P>, 1> gain(Hidden);
  const support::device_tiles<row_tile> y(tokens, Hidden, support::tiles_lie::by_column);
  x.normal(1), residual.normal(2), gain.normal(3);
  op::rms_norm_quantizer<P>::forward_args args{.plain = {.x = x, .gain = gain, .y = {}}, .y = y.get()};
  if (Residual) args.plain.residual = residual, args.plain.sum = sum;
  support::time_on<backend::cuda>(state, [&](auto& ctx) { op::rms_norm_quantizer<P>::forward(ctx, args); });
  support::count_bytes(state, (Residual ? 3 : 1) * static_cast<double>(x.bytes()) + y.bytes());
}

BENCHMARK_TEMPLATE(forward, support::deepseek_v3.hidden, false)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, support::deepseek_v3.hidden, true)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, support::deepseek_v3.q_rank, false)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, support::deepseek_v3.kv_rank, false)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
