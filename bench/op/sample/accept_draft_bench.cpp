// SPDX-License-Identifier: MIT
// Verifying one draft for each of 64 sequences: a look at two weights where it stays, all weights twice in
// 128-bit numbers where it does not.
#include <dsv3/cpu/sample/accept_draft.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

struct tensors {
  static constexpr index_t sequences = 64;
  support::tensor<std::uint64_t, 2> target, draft;
  support::tensor<std::uint64_t, 1> target_totals, draft_totals, bits;
  support::tensor<std::int32_t, 1> drafted, offsets, accepted, next;
  cpu_context<> ctx;

  tensors(const support::model_sizes& m, bool stays, int threads)
      : target(2 * sequences, m.vocab),
        draft(sequences, m.vocab),
        target_totals(2 * sequences),
        draft_totals(sequences),
        bits(4 * sequences),
        drafted(sequences),
        offsets(sequences + 1),
        accepted(sequences),
        next(sequences),
        ctx{.threads = threads} {
    const std::uint64_t weight = std::uint64_t{1} << 43, vocab = std::uint64_t(m.vocab);
    target.fill(weight), draft.fill(weight);
    target_totals.fill(weight * vocab), draft_totals.fill(weight * vocab);
    bits.fill(std::uint64_t{1} << 63);
    for (index_t b = 0; b < sequences; ++b) {
      drafted.get()(b) = 1;
      offsets.get()(b + 1) = static_cast<std::int32_t>(b + 1);
      if (stays) continue;
      target.get()(2 * b, 1) = 0;  // never the draft, and what is left is spread evenly
      target_totals.get()(2 * b) -= weight;
    }
  }
  void verify() {
    op::accept_draft::forward(ctx, {.target = target,
                                    .target_totals = target_totals,
                                    .draft = draft,
                                    .draft_totals = draft_totals,
                                    .drafted = drafted,
                                    .offsets = offsets,
                                    .bits = bits,
                                    .accepted = accepted,
                                    .next = next});
  }
};

template <const support::model_sizes& Sizes, bool Stays>
void verify(benchmark::State& state) {
  tensors t(Sizes, Stays, static_cast<int>(state.range(0)));
  for (auto _ : state) t.verify();
  // The draw goes half the way; a rejection sums the residual before.
  const double row = double(t.draft.bytes());
  support::count_bytes(state, Stays ? row / 2 : 2 * row * 1.5, t.ctx.threads);
}

BENCHMARK_TEMPLATE(verify, support::deepseek_v3, true)->Name("accepted/v3")->Apply(support::on_threads);
BENCHMARK_TEMPLATE(verify, support::deepseek_v3, false)->Name("rejected/v3")->Apply(support::on_threads);
BENCHMARK_TEMPLATE(verify, support::mini, false)->Name("rejected/mini")->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
