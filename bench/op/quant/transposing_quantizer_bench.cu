// SPDX-License-Identifier: MIT
// Transposed quantisation on a GPU moves memory: its limit is the copy bandwidth.
#include <dsv3/cuda/quant/transposing_quantizer.cuh>

#include <support/device_tiles.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

constexpr index_t tokens = 4 * support::deepseek_v3.tokens, hidden = support::deepseek_v3.hidden;

template <class From>
struct tensors {
  support::device_tensor<From> x{tokens, hidden};
  support::device_tiles<row_tile> y{tokens, hidden, support::tiles_lie::by_column},
      t{hidden, tokens, support::tiles_lie::by_column};

  tensors() { x.normal(1); }
};

template <class From>
void forward(benchmark::State& state) {
  tensors<From> f;
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::transposing_quantizer<From, fp8_e4m3>::forward(ctx, {.x = f.x, .t = f.t.get()});
  });
  support::count_bytes(state, static_cast<double>(f.x.bytes()) + f.t.bytes());
}

template <class From>
void both(benchmark::State& state) {
  tensors<From> f;
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::transposing_quantizer<From, fp8_e4m3>::both(ctx, {.x = f.x, .y = f.y.get(), .t = f.t.get()});
  });
  support::count_bytes(state, static_cast<double>(f.x.bytes()) + f.y.bytes() + f.t.bytes());
}

void retile(benchmark::State& state) {
  tensors<bf16> f;
  using op_type = op::transposing_quantizer<bf16, fp8_e4m3>;
  auto ctx = support::context<>();
  op_type::both(ctx, {.x = f.x, .y = f.y.get(), .t = f.t.get(), .scales = scale_kind::power_of_two});
  support::time_on<backend::cuda>(
      state, [&](auto& timed) { op_type::retile(timed, {.y = f.y.get(), .t = f.t.get()}); });
  support::count_bytes(state, f.y.bytes() + f.t.bytes());
}

BENCHMARK_TEMPLATE(forward, bf16)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, float)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(both, bf16)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(both, float)->Apply(support::on_gpu);
BENCHMARK(retile)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
