// SPDX-License-Identifier: MIT
// The balance loss on a GPU reads the scores, forward once for the ranking and once for the sums. It is
// small: the scores of 4096 tokens take a microsecond, and forward starts five kernels.
#include <dsv3/cuda/routing/balance.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;
using P = fp32;

/// What a GPU has of a step of training.
constexpr support::model_sizes step = [] {
  support::model_sizes m = support::deepseek_v3;
  m.tokens = 16384, m.sequences = 4;
  return m;
}();

struct tensors {
  support::device_tensor<float> scores, fraction, dscores;
  support::device_tensor<std::int32_t> ids;
  support::device_tensor<std::int32_t, 1> offsets, positions;
  support::device_tensor<double, 1> loss;

  explicit tensors(const support::model_sizes& m)
      : scores(m.tokens, m.experts),
        fraction(m.sequences, m.experts),
        dscores(m.tokens, m.experts),
        ids(m.tokens, m.top_k),
        offsets(m.sequences + 1),
        positions(m.tokens),
        loss(1) {
    const random_stream random(20260101, 1);
    scores.generate(
        [&](index_t i) { return static_cast<float>(random.uniform(static_cast<std::uint64_t>(i))); });
    ids.generate(
        [&](index_t i) { return static_cast<std::int32_t>((i / m.top_k + i % m.top_k) % m.experts); });
    offsets.generate([&](index_t s) { return static_cast<std::int32_t>(s * m.tokens / m.sequences); });
  }
  packed_sequences packed() const { return {offsets, positions, positions.get().extent(0)}; }
};

template <const support::model_sizes& Sizes, balance_indicator Indicator>
void forward(benchmark::State& state) {
  const tensors t(Sizes);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::sequence_balance<P>::forward(ctx, {.scores = t.scores,
                                           .ids = t.ids,
                                           .sequence = t.packed(),
                                           .indicator = Indicator,
                                           .coefficient = 1e-4,
                                           .fraction = t.fraction,
                                           .loss = t.loss});
  });
  const double passes = Indicator == balance_indicator::selection ? 1 : 2;
  support::count_bytes(state, passes * static_cast<double>(t.scores.bytes()));
}

template <const support::model_sizes& Sizes>
void backward(benchmark::State& state) {
  const tensors t(Sizes);
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op::sequence_balance<P>::backward(ctx, {.scores = t.scores,
                                            .fraction = t.fraction,
                                            .sequence = t.packed(),
                                            .coefficient = 1e-4,
                                            .dscores = t.dscores});
  });
  support::count_bytes(state, 2.0 * static_cast<double>(t.scores.bytes()));
}

constexpr auto chosen = balance_indicator::selection, largest = balance_indicator::unbiased_top_k;
BENCHMARK_TEMPLATE(forward, support::deepseek_v3, largest)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, support::deepseek_v3, chosen)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, step, chosen)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, support::deepseek_v3)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, step)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, support::mini)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
