// SPDX-License-Identifier: MIT
// SwiGLU between products of 8-bit operands on a GPU, over the experts' rows.
#include <dsv3/cuda/quant/stored_swiglu.cuh>

#include <support/device_tiles.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using P = fp8_tilewise;
using op_type = op::stored_swiglu<P>;

template <index_t Rows, index_t Inner>
struct tensors {
  using tiles = support::device_tiles<row_tile>;
  static constexpr auto lie = support::tiles_lie::by_column;
  support::device_tensor<activation<P>> gate_up{Rows, 2 * Inner}, dy{Rows, Inner};
  support::device_tensor<accumulator<P>, 1> row_gates{Rows}, d_row_gates{Rows};
  tiles kept{Rows, 2 * Inner, lie}, y{Rows, Inner, lie}, t{Inner, Rows, lie};
  tiles d{Rows, 2 * Inner, lie}, d_t{2 * Inner, Rows, lie};

  tensors() {
    gate_up.normal(1), row_gates.normal(2), dy.normal(3);
    auto ctx = support::context();
    op_type::forward(ctx, forward());
  }
  typename op_type::forward_args forward() {
    return {.gate_up = gate_up, .kept = kept.get(), .y = y.get(), .row_gates = row_gates};
  }
};

template <index_t Rows, index_t Inner>
void forward(benchmark::State& state) {
  tensors<Rows, Inner> x;
  support::time_on<backend::cuda>(state, [&](auto& ctx) { op_type::forward(ctx, x.forward()); });
  support::count_bytes(state, static_cast<double>(x.gate_up.bytes()) + x.kept.bytes() + x.y.bytes());
}

template <index_t Rows, index_t Inner>
void again(benchmark::State& state) {
  tensors<Rows, Inner> x;
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op_type::again(ctx, {.kept = x.kept.get(), .t = x.t.get(), .row_gates = x.row_gates});
  });
  support::count_bytes(state, x.kept.bytes() + x.t.bytes());
}

template <index_t Rows, index_t Inner>
void backward(benchmark::State& state) {
  tensors<Rows, Inner> x;
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op_type::backward(ctx, {.dy = x.dy,
                            .kept = x.kept.get(),
                            .y = x.d.get(),
                            .t = x.d_t.get(),
                            .row_gates = x.row_gates,
                            .d_row_gates = x.d_row_gates});
  });
  support::count_bytes(state,
                       static_cast<double>(x.dy.bytes()) + x.kept.bytes() + x.d.bytes() + x.d_t.bytes());
}

constexpr support::model_sizes v3 = support::deepseek_v3;
BENCHMARK_TEMPLATE(forward, v3.tokens* v3.top_k, v3.expert_inner)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(again, v3.tokens* v3.top_k, v3.expert_inner)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, v3.tokens* v3.top_k, v3.expert_inner)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
