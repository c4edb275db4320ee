// SPDX-License-Identifier: MIT
// The experts' products on a GPU: their limit is arithmetic, whether tokens spread or crowd; with few tokens
// it is reading the weights.
#include <dsv3/cuda/linear/grouped_gemm_sm90.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using P = bf16_mixed;

struct extents {
  index_t experts, rows, in, out;  // rows of an expert
};
constexpr extents wide{8, 4096, 7168, 4096};  // gate and up projection of a rank of the real model
constexpr extents narrow{8, 4096, 2048, 7168};
constexpr extents small{64, 1536, 2048, 2048};  // a model of 3 billion parameters
constexpr extents decoding{32, 32, 7168, 4096};

enum class pass { forward, data, weights, weights_added };
enum class load { even, uneven };

/// The experts' rows; `load::uneven` gives one expert nearly twice, its neighbour few, others between.
struct groups {
  support::device_tensor<std::int32_t, 1> offsets, counts;
  index_t capacity = 0;

  groups(const extents& e, load spread) : offsets(e.experts + 1), counts(e.experts) {
    const auto count = [&](index_t expert) {
      const index_t pair = expert / 2, moved = (pair % 8 + 1) * e.rows / 9;
      return static_cast<std::int32_t>(spread == load::even ? e.rows
                                                            : e.rows + (expert % 2 == 0 ? moved : -moved));
    };
    counts.generate(count);
    index_t at = 0;
    offsets.generate([&](index_t expert) {
      const index_t first = at;
      if (expert < e.experts) at += round_up(count(expert), 128);
      return static_cast<std::int32_t>(first);
    });
    capacity = at;
  }
  template <class T>
  ragged_view<T> over(const support::device_tensor<T>& rows) const {
    return {rows, offsets, counts};
  }
};

template <class Backend, pass Pass, const extents& E, load Spread = load::even>
void grouped_gemm(benchmark::State& state) {
  const groups g(E, Spread);
  support::device_tensor<bf16> x(g.capacity, E.in), y(g.capacity, E.out), dx(g.capacity, E.in);
  support::device_tensor<bf16, 3> w(E.experts, E.out, E.in);
  const support::device_tensor<float, 3> dw(E.experts, E.out, E.in);
  x.normal(1), y.normal(2), w.normal(3);
  support::time_on<Backend>(state, [&](auto& ctx) {
    using op = dsv3::op::grouped_gemm<P>;
    if constexpr (Pass == pass::forward) op::forward(ctx, {.x = g.over(x), .w = w, .y = g.over(y)});
    if constexpr (Pass == pass::data) op::backward_data(ctx, {.dy = g.over(y), .w = w, .dx = g.over(dx)});
    if constexpr (Pass == pass::weights)
      op::backward_weights(ctx, {.dy = g.over(y), .x = g.over(x), .dw = dw, .into = store::write});
    if constexpr (Pass == pass::weights_added)
      op::backward_weights(ctx, {.dy = g.over(y), .x = g.over(x), .dw = dw});
  });
  if constexpr (E.rows <= 64)
    support::count_bytes(state, static_cast<double>(w.bytes()));
  else
    support::count_flops<bf16>(state, 2.0 * static_cast<double>(E.experts * E.rows * E.in * E.out));
}

BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::forward, wide)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::data, wide)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::weights, wide)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::forward, narrow)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::data, narrow)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::weights, narrow)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::forward, small)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::data, small)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::weights, small)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::weights_added, small)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::forward, small, load::uneven)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::weights, small, load::uneven)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::hopper, pass::forward, decoding)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::cuda, pass::forward, wide)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::cuda, pass::data, wide)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(grouped_gemm, backend::cuda, pass::weights, wide)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
