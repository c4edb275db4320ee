// SPDX-License-Identifier: MIT
// What a rank does before rows travel: their ranks, the plan to send them, the labels beside them; and the
// plan of what arrives.
#include <dsv3/cpu/expert/expert_ranks.hpp>
#include <dsv3/cpu/expert/permute.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>

namespace {

using namespace dsv3;
using P = bf16_mixed;

/// Experts on `ranks` ranks, seen from the first.
struct tensors {
  index_t experts, ranks, per_rank, slots;
  host_memory memory;
  owned<permutation> sent, received;
  support::tensor<std::int32_t, 2> ids, chosen, row_experts;
  support::tensor<float, 2> gates, row_gates;
  cpu_context<> ctx;

  tensors(const support::model_sizes& m, index_t among, int threads)
      : experts(m.experts),
        ranks(among),
        per_rank(experts / ranks),
        slots(std::min(m.top_k, per_rank)),
        sent(memory,
             permutation_config{
                 .tokens = m.tokens, .top_k = std::min(m.top_k, ranks), .experts = ranks, .masked = true}),
        received(memory, permutation_config{.tokens = ranks * m.tokens, .top_k = slots, .experts = per_rank}),
        ids(m.tokens, m.top_k),
        chosen(m.tokens, std::min(m.top_k, ranks)),
        row_experts(ranks * m.tokens, slots),
        gates(m.tokens, m.top_k),
        row_gates(ranks * m.tokens, slots),
        ctx{.threads = threads} {
    const random_stream random(20260101, 1);
    for (index_t t = 0; t < m.tokens; ++t) {
      const auto first = static_cast<index_t>(
          random.below(static_cast<std::uint64_t>(experts), static_cast<std::uint64_t>(t)));
      for (index_t k = 0; k < m.top_k; ++k)
        ids.get()(t, k) = static_cast<std::int32_t>((first + k * 13) % experts);
    }
    gates.normal(2);
    ctx.scratch = scratch_arena{memory, std::size_t{1} << 20};
    plan_to_send();
  }
  void plan_to_send() {
    op::expert_ranks<P>::choose(ctx, {.ids = ids, .experts = experts, .ranks = ranks, .chosen = chosen});
    op::permute<P>::plan(ctx, {.ids = chosen, .plan = sent});
    op::expert_ranks<P>::label(ctx, {.ids = ids,
                                     .gates = gates,
                                     .sent = sent,
                                     .per_rank = per_rank,
                                     .row_experts = row_experts,
                                     .row_gates = row_gates});
  }
  /// As if all ranks sent what this one sends to itself: the labels are as many.
  void plan_received() { op::permute<P>::plan(ctx, {.ids = row_experts, .plan = received}); }
};

template <const support::model_sizes& Sizes>
void send(benchmark::State& state) {
  tensors t(Sizes, state.range(1), static_cast<int>(state.range(0)));
  for (auto _ : state) t.plan_to_send();
  support::count_bytes(state, double(2 * t.ids.bytes() + t.row_experts.bytes() + t.row_gates.bytes()),
                       t.ctx.threads);
}

template <const support::model_sizes& Sizes>
void receive(benchmark::State& state) {
  tensors t(Sizes, state.range(1), static_cast<int>(state.range(0)));
  for (auto _ : state) t.plan_received();
  support::count_bytes(state, double(3 * t.row_experts.bytes()), t.ctx.threads);
}

BENCHMARK_TEMPLATE(send, support::deepseek_v3)
    ->ArgsProduct({{1, 2}, {8, 64}})
    ->ArgNames({"threads", "ranks"});
BENCHMARK_TEMPLATE(send, support::mini)->ArgsProduct({{1, 2}, {4}})->ArgNames({"threads", "ranks"});
BENCHMARK_TEMPLATE(receive, support::deepseek_v3)
    ->ArgsProduct({{1, 2}, {8, 64}})
    ->ArgNames({"threads", "ranks"});
BENCHMARK_TEMPLATE(receive, support::mini)->ArgsProduct({{1, 2}, {4}})->ArgNames({"threads", "ranks"});

}  // namespace

BENCHMARK_MAIN();
