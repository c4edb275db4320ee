// SPDX-License-Identifier: MIT
// Cross entropy on the CPU: one row of logits at a time, rows shared among threads.
#pragma once

#include <dsv3/cpu/host/math.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/op/loss/cross_entropy.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace dsv3::inline DSV3_ABI {

template <class P, class Gradient>
struct implementation<op::cross_entropy<P, Gradient>, backend::cpu> {
  using op_type = op::cross_entropy<P, Gradient>;
  using acc = accumulator<P>;

  /// [tokens]   the loss of each row, so that the sum over rows knows no threads
  template <class Ctx>
  static view<double, 1> scratch(const Ctx&, scratch_arena& arena,
                                 const typename op_type::forward_args& args) {
    return arena.tensor<double>(args.logits.extent(0));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    require_targets(args);
    const view<double, 1> losses = scratch(ctx, ctx.scratch, args);
    const index_t tokens = args.logits.extent(0), vocab = args.logits.extent(1);
    cpu::parallel_ranges(ctx.threads, tokens, row_grain(vocab), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) {
        const acc* logits = args.logits[t].data();
        const index_t target = args.targets(t);
        const double largest = row_max(logits, vocab), rest = std::log(exp_sum(logits, acc(largest), vocab));
        losses(t) = target < 0 ? 0 : (largest - logits[target]) + rest;  // large logits must not swallow rest
        args.lse(t) = static_cast<acc>(largest + rest);
      }
    });
    double sum = 0;
    for (index_t t = 0; t < tokens; ++t) sum += losses(t);
    args.loss(0) += args.scale * sum;
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_args& args) {
    require_targets(args);
    const index_t tokens = args.logits.extent(0), vocab = args.logits.extent(1);
    cpu::parallel_ranges(ctx.threads, tokens, row_grain(vocab), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) {
        Gradient* dlogits = args.dlogits[t].data();
        const index_t target = args.targets(t);
        if (target < 0) {
          std::fill_n(dlogits, vocab, Gradient(acc(0)));
        } else {
          const acc* logits = args.logits[t].data();
          const acc scale = acc(args.scale), lse = args.lse(t);
          const acc at_target = scale * cpu::exponential(logits[target] - lse) - scale;
          scaled_softmax(logits, lse, scale, dlogits, vocab);
          dlogits[target] = Gradient(at_target);
        }
      }
    });
  }

 private:
  // Rows per thread below which a thread costs more than it does.
  static index_t row_grain(index_t vocab) { return 1 + 4096 / (vocab + 1); }

  // Before anything is written, and on one thread, so that the sentence is always about the first bad target.
  template <class Args>
  static void require_targets(const Args& args) {
    const index_t vocab = args.logits.extent(1);
    for (index_t t = 0; t < args.targets.extent(0); ++t) {
      const std::int32_t target = args.targets(t);
      if (target < -1 || target >= vocab)
        raise(std::string(Args::name) + ": the target of token " + std::to_string(t) + " is " +
              std::to_string(target) + ", expected -1 (ignored) or an id below " + std::to_string(vocab));
    }
  }

  static acc row_max(const acc* logits, index_t vocab) {
    acc largest = -std::numeric_limits<acc>::infinity();
    DSV3_SIMD_MAX(largest)
    for (index_t v = 0; v < vocab; ++v)
      largest = logits[v] > largest ? logits[v] : largest;  // std::max stays scalar
    return largest;
  }

  // Σ exp(logits − largest): NaN where the row holds a NaN or +infinity.
  static double exp_sum(const acc* logits, acc largest, index_t vocab) {
    constexpr index_t block = 1024;  // summed in the accumulator, and the blocks in double
    double sum = 0;
    for (index_t begin = 0; begin < vocab; begin += block) {
      const index_t end = std::min(begin + block, vocab);
      acc part = 0;
      DSV3_SIMD_SUM(part)
      for (index_t v = begin; v < end; ++v) part += cpu::exponential(logits[v] - largest);
      sum += part;
    }
    return sum;
  }

  static void scaled_softmax(const acc* logits, acc lse, acc scale, Gradient* out, index_t vocab) {
    DSV3_SIMD
    for (index_t v = 0; v < vocab; ++v) out[v] = Gradient(scale * cpu::exponential(logits[v] - lse));
  }
};

}  // namespace dsv3::inline DSV3_ABI
