// SPDX-License-Identifier: MIT
// Latent attention is arithmetic: its limit is the rate of products. Only the causal half counts as work.
#include <dsv3/cpu/attention/mla_attention.hpp>
#include <dsv3/exec/measure.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>

namespace {

using namespace dsv3;

// One layer's tensors. Of the real model, 8 of the 128 heads: more would only take longer.
template <class P>
struct tensors {
  using op_type = op::mla_attention<P>;

  index_t heads, length;
  double scores;  // query-key pairs that are not masked
  support::tensor<activation<P>, 3> q, kv, o, d_o, dq, dkv;
  support::tensor<activation<P>, 2> k_rope, dk_rope;
  support::tensor<accumulator<P>, 2> lse;
  support::tensor<std::int32_t, 1> offsets, positions;

  explicit tensors(const support::model_sizes& m)
      : heads(std::min<index_t>(m.heads, 8)),
        length(m.tokens / m.sequences),
        scores(static_cast<double>(m.tokens * heads) * static_cast<double>(length + 1) / 2),
        q(m.tokens, heads, m.qk_nope + m.qk_rope),
        kv(m.tokens, heads, m.qk_nope + m.v_dim),
        o(m.tokens, heads, m.v_dim),
        d_o(m.tokens, heads, m.v_dim),
        dq(m.tokens, heads, m.qk_nope + m.qk_rope),
        dkv(m.tokens, heads, m.qk_nope + m.v_dim),
        k_rope(m.tokens, m.qk_rope),
        dk_rope(m.tokens, m.qk_rope),
        lse(heads, m.tokens),
        offsets(m.sequences + 1),
        positions(m.tokens) {
    q.normal(1), kv.normal(2), k_rope.normal(3), d_o.normal(4);
    for (index_t s = 0; s <= m.sequences; ++s) offsets.get()(s) = static_cast<std::int32_t>(s * length);
    for (index_t t = 0; t < m.tokens; ++t) positions.get()(t) = static_cast<std::int32_t>(t % length);
  }

  double scale() const { return 1 / std::sqrt(static_cast<double>(q.get().extent(2))); }
  typename op_type::forward_args forward() const {
    return {.q = q,
            .kv = kv,
            .k_rope = k_rope,
            .sequence = {offsets, positions, length},
            .scale = scale(),
            .o = o,
            .lse = lse};
  }
  typename op_type::backward_args backward() const {
    return {.d_o = d_o,
            .q = q,
            .kv = kv,
            .k_rope = k_rope,
            .o = o,
            .lse = lse,
            .sequence = {offsets, positions, length},
            .scale = scale(),
            .dq = dq,
            .dkv = dkv,
            .dk_rope = dk_rope};
  }
};

template <class P>
cpu_context<> context(const tensors<P>& t, int threads) {
  static host_memory memory;
  cpu_context<> ctx{.threads = threads};
  ctx.scratch = scratch_arena{memory, measure(ctx, [&](auto& probe) {
                                op::mla_attention<P>::forward(probe, t.forward());
                                op::mla_attention<P>::backward(probe, t.backward());
                              })};
  return ctx;
}

template <class P, const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  const tensors<P> t(Sizes);
  auto ctx = context(t, threads);
  for (auto _ : state) op::mla_attention<P>::forward(ctx, t.forward());
  const auto qk = static_cast<double>(Sizes.qk_nope + Sizes.qk_rope),
             v_dim = static_cast<double>(Sizes.v_dim);
  support::count_flops(state, t.scores * 2 * (qk + v_dim), threads);
}

template <class P, const support::model_sizes& Sizes>
void backward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  const tensors<P> t(Sizes);
  auto ctx = context(t, threads);
  op::mla_attention<P>::forward(ctx, t.forward());
  for (auto _ : state) op::mla_attention<P>::backward(ctx, t.backward());
  const auto qk = static_cast<double>(Sizes.qk_nope + Sizes.qk_rope),
             v_dim = static_cast<double>(Sizes.v_dim);
  support::count_flops(state, t.scores * 2 * (3 * qk + 2 * v_dim), threads);
}

BENCHMARK_TEMPLATE(forward, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, fp32, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16_mixed, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, bf16_mixed, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, fp32, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, fp32, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16_mixed, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(backward, bf16_mixed, support::deepseek_v3)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
