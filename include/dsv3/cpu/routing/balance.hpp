// SPDX-License-Identifier: MIT
// Balancing on the CPU: a sign per expert, and a loss whose terms are one number per token.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/routing/leaders.hpp>
#include <dsv3/op/routing/balance.hpp>

#include <algorithm>
#include <cmath>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::routing_bias<P>, backend::cpu> {
  // load < mean exactly where load · experts < total: no division, so equality is exact.
  template <class Ctx>
  static void run(Ctx&, const typename op::routing_bias<P>::update_args& args) {
    if (!args.scale.empty() && !std::isfinite(args.scale(0))) return;
    const index_t experts = args.load.extent(0);
    std::int64_t total = 0;
    for (index_t e = 0; e < experts; ++e) total += args.load(e);
    for (index_t e = 0; e < experts; ++e) {
      const std::int64_t missing = total - args.load(e) * experts;
      args.bias(e) += master<P>(args.rate * ((missing > 0) - (missing < 0)));
    }
  }
};

/// Exchanging the sums of Σ_e f[e] P[e] leaves one number per token, the mean of f under its normalised
/// scores:
///   loss += coefficient / sequences · Σ_s 1/T_s Σ_{t in s} m[t]        m[t] = Σ_e f[e] s[t,e] / Σ_e s[t,e]
/// which backward needs as well. P is never formed, and no sum crosses threads.
template <class P>
struct implementation<op::sequence_balance<P>, backend::cpu> {
  using op_type = op::sequence_balance<P>;
  using acc = accumulator<P>;
  using forward_args = typename op_type::forward_args;
  using backward_args = typename op_type::backward_args;

  struct forward_scratch {
    view<double, 1> mean;             // [tokens]                  m
    view<std::int32_t, 2> indicated;  // [tokens, top_k]           none when the router's choice counts
    view<acc, 2> best;                // [tokens, top_k]           their scores
  };
  template <class Ctx>
  static forward_scratch scratch(const Ctx&, scratch_arena& arena, const forward_args& args) {
    const index_t tokens = args.scores.extent(0), top_k = args.ids.extent(1);
    forward_scratch work{arena.tensor<double>(tokens), {}, {}};
    if (args.indicator == balance_indicator::unbiased_top_k)
      work.indicated = arena.tensor<std::int32_t>(tokens, top_k),
      work.best = arena.tensor<acc>(tokens, top_k);
    return work;
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const forward_scratch work = scratch(ctx, ctx.scratch, args);
    view<const std::int32_t, 2> indicated = args.ids;
    if (args.indicator == balance_indicator::unbiased_top_k) find_top(ctx.threads, args.scores, work);
    if (args.indicator == balance_indicator::unbiased_top_k) indicated = work.indicated;

    const index_t experts = args.scores.extent(1), top_k = args.ids.extent(1),
                  sequences = args.sequence.sequences();
    double total = 0;
    for (index_t s = 0; s < sequences; ++s) {
      const index_t first = args.sequence.offsets(s), last = args.sequence.offsets(s + 1);
      acc* f = args.fraction[s].data();
      std::fill_n(f, experts, acc(0));
      if (first == last) continue;
      for (index_t t = first; t < last; ++t)
        for (index_t k = 0; k < top_k; ++k) f[indicated(t, k)] += 1;
      const double balanced = double(top_k) * double(last - first) / double(experts);
      for (index_t e = 0; e < experts; ++e) f[e] = acc(double(f[e]) / balanced);
      cpu::parallel_ranges(ctx.threads, last - first, grain(experts), [&](index_t begin, index_t end) {
        for (index_t t = first + begin; t < first + end; ++t) {
          const moments m = token_moments(args.scores[t].data(), f, experts);
          work.mean(t) = m.weighted / m.sum;
        }
      });
      double sum = 0;
      for (index_t t = first; t < last; ++t) sum += work.mean(t);
      total += sum / double(last - first);
    }
    if (sequences > 0) args.loss(0) += args.coefficient / double(sequences) * total;
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_args& args) {
    const index_t experts = args.scores.extent(1), sequences = args.sequence.sequences();
    for (index_t s = 0; s < sequences; ++s) {
      const index_t first = args.sequence.offsets(s), last = args.sequence.offsets(s + 1);
      const acc* f = args.fraction[s].data();
      const double share = args.coefficient / (double(sequences) * double(last - first));
      cpu::parallel_ranges(ctx.threads, last - first, grain(experts), [&](index_t begin, index_t end) {
        for (index_t t = first + begin; t < first + end; ++t) {
          const moments m = token_moments(args.scores[t].data(), f, experts);
          const acc slope = acc(share / m.sum), mean = acc(m.weighted / m.sum);
          acc* ds = args.dscores[t].data();
          DSV3_SIMD
          for (index_t e = 0; e < experts; ++e) ds[e] = slope * (f[e] - mean);
        }
      });
    }
  }

 private:
  // Tokens per thread below which a thread costs more than it does.
  static index_t grain(index_t experts) { return 1 + 8192 / (experts + 1); }

  struct moments {
    double sum, weighted;  // Σ s, Σ f · s
  };
  static moments token_moments(const acc* s, const acc* f, index_t experts) {
    double sum = 0, weighted = 0;
    DSV3_SIMD_SUM(sum, weighted)
    for (index_t e = 0; e < experts; ++e) {
      sum += double(s[e]);
      weighted += double(s[e]) * double(f[e]);
    }
    return {sum, weighted};
  }

  static void find_top(int threads, const view<const acc, 2>& scores, const forward_scratch& work) {
    const index_t experts = scores.extent(1), top_k = work.indicated.extent(1);
    cpu::parallel_ranges(threads, scores.extent(0), grain(experts), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) {
        cpu::leaders<acc> top{work.best[t].data(), work.indicated[t].data(), top_k};
        for (index_t e = 0; e < experts; ++e) top.offer(scores(t, e), e);
      }
    });
  }
};

}  // namespace dsv3::inline DSV3_ABI
