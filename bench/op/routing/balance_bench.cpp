// SPDX-License-Identifier: MIT
// The balance loss reads the scores, forward once for the ranking and once for the sums; the ranking takes
// the time.
#include <dsv3/cpu/routing/balance.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;
using P = fp32;

struct tensors {
  support::tensor<float, 2> scores, fraction, dscores;
  support::tensor<std::int32_t, 2> ids;
  support::tensor<std::int32_t, 1> offsets, positions;
  support::tensor<double, 1> loss;
  host_memory memory;
  cpu_context<> ctx;

  tensors(const support::model_sizes& m, int threads)
      : scores(m.tokens, m.experts),
        fraction(m.sequences, m.experts),
        dscores(m.tokens, m.experts),
        ids(m.tokens, m.top_k),
        offsets(m.sequences + 1),
        positions(m.tokens),
        loss(1),
        ctx{.threads = threads} {
    const random_stream random(20260101, 1);
    for (index_t t = 0; t < m.tokens; ++t) {
      for (index_t e = 0; e < m.experts; ++e)
        scores.get()(t, e) =
            static_cast<float>(random.uniform(static_cast<std::uint64_t>(t * m.experts + e)));
      for (index_t k = 0; k < m.top_k; ++k) ids.get()(t, k) = static_cast<std::int32_t>((t + k) % m.experts);
    }
    for (index_t s = 0; s <= m.sequences; ++s)
      offsets.get()(s) = static_cast<std::int32_t>(s * m.tokens / m.sequences);
    ctx.scratch = scratch_arena{memory, std::size_t{1} << 24};
  }
  packed_sequences packed() const { return {offsets, positions, positions.get().extent(0)}; }
};

template <const support::model_sizes& Sizes, balance_indicator Indicator>
void forward(benchmark::State& state) {
  tensors t(Sizes, static_cast<int>(state.range(0)));
  for (auto _ : state)
    op::sequence_balance<P>::forward(t.ctx, {.scores = t.scores,
                                             .ids = t.ids,
                                             .sequence = t.packed(),
                                             .indicator = Indicator,
                                             .coefficient = 1e-4,
                                             .fraction = t.fraction,
                                             .loss = t.loss});
  const double passes = Indicator == balance_indicator::selection ? 1 : 2;
  support::count_bytes(state, passes * double(t.scores.bytes()), t.ctx.threads);
}

template <const support::model_sizes& Sizes>
void backward(benchmark::State& state) {
  tensors t(Sizes, static_cast<int>(state.range(0)));
  for (auto _ : state)
    op::sequence_balance<P>::backward(t.ctx, {.scores = t.scores,
                                              .fraction = t.fraction,
                                              .sequence = t.packed(),
                                              .coefficient = 1e-4,
                                              .dscores = t.dscores});
  support::count_bytes(state, 2.0 * double(t.scores.bytes()), t.ctx.threads);
}

constexpr auto chosen = balance_indicator::selection, largest = balance_indicator::unbiased_top_k;
BENCHMARK_TEMPLATE(forward, support::deepseek_v3, largest)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::deepseek_v3, chosen)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, support::mini, largest)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
