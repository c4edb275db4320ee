// SPDX-License-Identifier: MIT
// Distributions of tokens on the CPU: rows shared among threads; the filters find their cut digit by digit.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
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

  /// [lanes, vocab]   a lane's weights among which a filter still looks for its cut
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
  static std::uint64_t fill_row(const forward_args& args, index_t r, std::uint64_t* candidates) {
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

    std::uint64_t total = put_weights(w, largest, options.temperature, vocab);
    if (options.top_k > 0 && options.top_k < vocab) {
      const auto one = [](std::uint64_t) { return std::uint64_t{1}; };
      total = keep(w, vocab, find_cut(w, vocab, static_cast<std::uint64_t>(options.top_k), one, candidates));
    }
    if (options.top_p < 1) {
      const auto mass = [](std::uint64_t weight) { return weight; };
      total = keep(w, vocab, find_cut(w, vocab, share(total, options.top_p), mass, candidates));
    }
    return total;
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

  // From the logit, not from what stands in w: a token seen twice is penalised once.
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
      w[v] = op::token_weight((from_bits(w[v]) - largest) / temperature);
      total += w[v];
    }
    return total;
  }

  // ceil(top_p · total), top_p taken to 64 bits behind the point.
  static std::uint64_t share(std::uint64_t total, double top_p) {
    const uint128 product = wide_product(total, static_cast<std::uint64_t>(top_p * 0x1p64));
    const std::uint64_t whole = static_cast<std::uint64_t>(product >> 64);
    return std::max<std::uint64_t>(whole + (static_cast<std::uint64_t>(product) != 0), 1);
  }

  struct cut {
    std::uint64_t least;   // of the weights that stay
    std::uint64_t excess;  // how many of those equal to it go, the highest ids first
  };

  // Takes positive weights, largest first, until their worth reaches `need`; all of them where it never does.
  // The digits of a weight are those of its double, whose bits are ordered as the weights are: exponent and
  // five bits of the fraction first, so that few weights share the first digit with the last one taken.
  template <class Worth>
  static cut find_cut(const std::uint64_t* weights, index_t count, std::uint64_t need, const Worth& worth,
                      std::uint64_t* candidates) {
    constexpr std::uint64_t first_digits = (op::weight_bits + 1) << 5, digits = 1 << 10;
    std::uint64_t worths[first_digits];
    std::uint64_t prefix = 1023 << 5;  // of 1.0, the smallest weight
    std::uint64_t taken = 0;
    for (int shift = 47;; shift -= 10) {
      std::uint64_t digit = (shift == 47 ? first_digits : digits) - 1;
      std::fill_n(worths, digit + 1, 0);
      for (index_t i = 0; i < count; ++i)
        if (weights[i] != 0) worths[(key(weights[i]) >> shift) - prefix] += worth(weights[i]);
      for (; digit > 0 && taken + worths[digit] < need; --digit) taken += worths[digit];
      prefix += digit;
      count = gather(weights, count, shift, prefix, candidates);
      if (shift == 7) break;  // no weight has more bits
      weights = candidates;
      prefix <<= 10;
    }
    const std::uint64_t least = static_cast<std::uint64_t>(from_bits(prefix << 7));
    const std::uint64_t equal = static_cast<std::uint64_t>(count), each = worth(least);
    return {least, equal - std::min(equal, (need - taken + each - 1) / each)};
  }

  static std::uint64_t key(std::uint64_t weight) { return to_bits(static_cast<double>(weight)); }

  // The weights with these leading digits; `to` may be `from`.
  static index_t gather(const std::uint64_t* from, index_t count, int shift, std::uint64_t prefix,
                        std::uint64_t* to) {
    index_t kept = 0;
    for (index_t i = 0; i < count; ++i)
      if (key(from[i]) >> shift == prefix) to[kept++] = from[i];
    return kept;
  }

  static std::uint64_t keep(std::uint64_t* w, index_t vocab, cut c) {
    std::uint64_t total = 0;
    DSV3_SIMD_SUM(total)
    for (index_t v = 0; v < vocab; ++v) {
      w[v] = w[v] < c.least ? 0 : w[v];
      total += w[v];
    }
    total -= c.excess * c.least;
    for (index_t v = vocab; c.excess > 0;)
      if (w[--v] == c.least) w[v] = 0, --c.excess;
    return total;
  }
};

}  // namespace dsv3::inline DSV3_ABI
