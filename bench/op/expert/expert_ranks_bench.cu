// SPDX-License-Identifier: MIT
// What a GPU does before rows travel: their ranks, the plan to send them, the labels beside them; and the
// plan of what arrives.
#include <dsv3/cuda/expert/expert_ranks.cuh>
#include <dsv3/cuda/expert/permute.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

#include <algorithm>

namespace {

using namespace dsv3;
using P = bf16_mixed;

/// Experts on several ranks, seen from the first.
struct tensors {
  index_t experts, ranks, per_rank, slots;
  owned<permutation> sent, received;
  support::device_tensor<std::int32_t> ids, chosen, row_experts;
  support::device_tensor<float> gates, row_gates;

  tensors(const support::model_sizes& m, index_t among)
      : experts(m.experts),
        ranks(among),
        per_rank(experts / ranks),
        slots(std::min(m.top_k, per_rank)),
        sent(support::gpu_memory(),
             permutation_config{
                 .tokens = m.tokens, .top_k = std::min(m.top_k, ranks), .experts = ranks, .masked = true}),
        received(support::gpu_memory(),
                 permutation_config{
                     .tokens = ranks * m.tokens, .top_k = slots, .experts = per_rank, .alignment = 128}),
        ids(m.tokens, m.top_k),
        chosen(m.tokens, std::min(m.top_k, ranks)),
        row_experts(ranks * m.tokens, slots),
        gates(m.tokens, m.top_k),
        row_gates(ranks * m.tokens, slots) {
    const random_stream random(20260101, 1);
    ids.generate([&](index_t i) {
      const index_t t = i / m.top_k, k = i % m.top_k;
      const auto first = static_cast<index_t>(
          random.below(static_cast<std::uint64_t>(m.experts), static_cast<std::uint64_t>(t)));
      return static_cast<std::int32_t>((first + k * 13) % m.experts);
    });
    gates.normal(2);
    auto ctx = support::context<>();
    const auto work = [&](auto& any) { plan_to_send(any); };
    ctx.scratch = scratch_arena{support::gpu_memory(), measure(ctx, work)};
    work(ctx);
    synchronize(ctx);
  }
  template <class Ctx>
  void plan_to_send(Ctx& ctx) const {
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
  template <class Ctx>
  void plan_received(Ctx& ctx) const {
    op::permute<P>::plan(ctx, {.ids = row_experts, .plan = received});
  }
};

template <const support::model_sizes& Sizes, int Ranks>
void send(benchmark::State& state) {
  const tensors t(Sizes, Ranks);
  support::time_on<backend::cuda>(state, [&](auto& ctx) { t.plan_to_send(ctx); });
  support::count_bytes(state,
                       static_cast<double>(2 * t.ids.bytes() + t.row_experts.bytes() + t.row_gates.bytes()));
}

template <const support::model_sizes& Sizes, int Ranks>
void receive(benchmark::State& state) {
  const tensors t(Sizes, Ranks);
  support::time_on<backend::cuda>(state, [&](auto& ctx) { t.plan_received(ctx); });
  support::count_bytes(state, static_cast<double>(3 * t.row_experts.bytes()));
}

BENCHMARK_TEMPLATE(send, support::deepseek_v3, 8)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(send, support::deepseek_v3, 64)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(receive, support::deepseek_v3, 8)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(receive, support::deepseek_v3, 64)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
