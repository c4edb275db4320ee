// SPDX-License-Identifier: MIT
// Distributions of tokens on the CPU: rows shared among threads.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/sample/filter_weights.hpp>
#include <dsv3/cpu/sample/first_above.hpp>
#include <dsv3/number/wide.hpp>
#include <dsv3/op/sample/token_distribution.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::token_distribution<P>, backend::cpu> {
  using op_type = op::token_distribution<P>;
  using acc = accumulator<P>;
  using forward_args = typename op_type::forward_args;

  /// [lanes, vocab]   the weights among which a filter looks for its cut
  template <class Ctx>
  static view<std::uint64_t, 2> scratch(const Ctx& ctx, scratch_arena& arena, const forward_args& args) {
    const index_t lanes = std::min<index_t>(std::max(ctx.threads, 1), args.logits.extent(0));
    return arena.tensor<std::uint64_t>(lanes, args.logits.extent(1));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    require_inputs(args);
    const view<std::uint64_t, 2> candidates = scratch(ctx, ctx.scratch, args);
    const index_t rows = args.logits.extent(0);
    cpu::parallel_slots(ctx.threads, rows, [&](index_t lane, index_t r) {
      args.totals(r) = fill_row(args, r, candidates[lane].data());
    });
    for (index_t r = 0; r < rows; ++r)
      if (args.totals(r) == 0)
        raise(std::string(forward_args::name) + ": the largest logit of row " + std::to_string(r) +
              " is infinite or there is none, expected a finite one");
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::draw_args& args) {
    const index_t rows = args.weights.extent(0), vocab = args.weights.extent(1);
    cpu::parallel_parts(ctx.threads, rows, [&](index_t r) {
      const std::uint64_t* w = args.weights[r].data();
      args.tokens(r) = static_cast<std::int32_t>(
          cpu::first_above(scale_bits(args.bits(r), args.totals(r)), vocab, [w](index_t v) { return w[v]; }));
    });
    for (index_t r = 0; r < rows; ++r)
      if (args.tokens(r) < 0 || args.totals(r) == 0)
        raise(std::string(op_type::draw_args::name) + ": the weights of row " + std::to_string(r) +
              " do not sum to " + std::to_string(args.totals(r)) + ", expected its total, above 0");
  }

 private:
  // Before anything is written, and on one thread, so that the sentence is always about the first mistake.
  static void require_inputs(const forward_args& args) {
    const auto wrong = [](const std::string& sentence) {
      raise(std::string(forward_args::name) + ": " + sentence);
    };
    const index_t rows = args.logits.extent(0), vocab = args.logits.extent(1);
    for (index_t r = 0; r < rows; ++r)
      if (const status answer = args.options(r).check(); !answer.good())
        wrong("row " + std::to_string(r) + ", " + answer.message());
    if (args.seen_offsets.empty()) return;
    for (index_t r = 0; r <= rows; ++r) {
      const index_t least = r == 0 ? 0 : args.seen_offsets(r - 1);
      if (args.seen_offsets(r) < least || args.seen_offsets(r) > args.seen.extent(0))
        wrong("seen_offsets[" + std::to_string(r) + "] is " + std::to_string(args.seen_offsets(r)) +
              ", expected " + std::to_string(least) + " to " + std::to_string(args.seen.extent(0)));
    }
    for (index_t i = args.seen_offsets(0); i < args.seen_offsets(rows); ++i)
      if (args.seen(i) < 0 || args.seen(i) >= vocab)
        wrong("seen token " + std::to_string(i) + " is " + std::to_string(args.seen(i)) +
              ", expected an id below " + std::to_string(vocab));
  }

  // Returns the row's total; 0 where its largest logit is not finite.
  static std::uint64_t fill_row(const forward_args& args, index_t r, std::uint64_t* list) {
    const sampling_options& options = args.options(r);
    const index_t vocab = args.logits.extent(1);
    const acc* logits = args.logits[r].data();
    std::uint64_t* w = args.weights[r].data();

    // Until they become weights, logits stand in their place as the bits of a double.
    put_logits(logits, w, vocab);
    if (!args.seen_offsets.empty())
      for (index_t i = args.seen_offsets(r); i < args.seen_offsets(r + 1); ++i)
        w[args.seen(i)] = penalized(logits[args.seen(i)], options.repetition_penalty);
    const double largest = row_max(w, vocab);
    if (!std::isfinite(largest)) return 0;
    if (options.greedy()) return put_one(w, largest, vocab);

    const std::uint64_t total = put_weights(w, largest, options.temperature, vocab);
    return cpu::filter_weights(options, w, vocab, total, list);
  }

  static std::uint64_t to_bits(double x) { return __builtin_bit_cast(std::uint64_t, x); }
  static double from_bits(std::uint64_t x) { return __builtin_bit_cast(double, x); }
  static double ranked(acc logit) {
    return logit == logit ? static_cast<double>(logit) : -std::numeric_limits<double>::infinity();
  }

  static void put_logits(const acc* logits, std::uint64_t* w, index_t vocab) {
    DSV3_SIMD
    for (index_t v = 0; v < vocab; ++v) w[v] = to_bits(ranked(logits[v]));
  }

  // From the logit, not from what stands in w: a token seen twice is penalised once. The product is rounded
  // because it is stored; no compiler fuses it with a difference that another loop takes.
  static std::uint64_t penalized(acc logit, double penalty) {
    const double l = ranked(logit);
    return to_bits(l > 0 ? l / penalty : l * penalty);
  }

  static double row_max(const std::uint64_t* w, index_t vocab) {
    double largest = -std::numeric_limits<double>::infinity();
    DSV3_SIMD_MAX(largest)
    for (index_t v = 0; v < vocab; ++v) {
      const double l = from_bits(w[v]);
      largest = l > largest ? l : largest;
    }
    return largest;
  }

  static std::uint64_t put_one(std::uint64_t* w, double largest, index_t vocab) {
    index_t first = 0;
    while (from_bits(w[first]) != largest) ++first;
    std::fill_n(w, vocab, 0);
    w[first] = 1;
    return 1;
  }

  static std::uint64_t put_weights(std::uint64_t* w, double largest, double temperature, index_t vocab) {
    std::uint64_t total = 0;
    DSV3_SIMD_SUM(total)
    for (index_t v = 0; v < vocab; ++v) {
      const std::uint64_t weight = op::token_weight((from_bits(w[v]) - largest) / temperature);
      w[v] = weight;
      total += weight;
    }
    return total;
  }
};

}  // namespace dsv3::inline DSV3_ABI
