// SPDX-License-Identifier: MIT
// From logits to the distribution a token is drawn from, and the draw.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/op/sample/exponential.hpp>
#include <dsv3/op/sample/sampling_options.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::op {

/// A distribution is kept as integers: token v has probability weights[v] / total. Integer sums depend on no
/// order, so every backend makes the same distribution of the same logits and draws the same token from it.
///   l[v]       = logit[v], as double; of a seen token l > 0 ? l / repetition_penalty : l ·
///   repetition_penalty weights[v] = token_weight((l[v] - max l) / temperature)         total = Σ weights
/// Then top_k keeps the k largest weights, and top_p of those the fewest that together are at least top_p of
/// what top_k left; of equal weights the lower ids stay. The others become zero. Greedy: weight 1 at the
/// first of the largest l, total 1. A NaN counts as minus infinity. A row whose largest l is not finite
/// raises, as do options out of range.
template <precision P>
struct token_distribution {
  static constexpr index_t most_tokens = index_t{1} << 20;  // of a vocabulary: totals stay below 2^64

  struct forward_args {
    static constexpr const char* name = "token_distribution.forward";
    view<const accumulator<P>, 2> logits;           // [rows, vocab]
    view<const sampling_options, 1> options;        // [rows]
    view<const std::int32_t, 1> seen = {};          // ids seen, packed by row; each counts once
    view<const std::int32_t, 1> seen_offsets = {};  // [rows + 1]      empty: nothing was seen
    view<std::uint64_t, 2> weights;                 // [rows, vocab]   written
    view<std::uint64_t, 1> totals;                  // [rows]          written
    status check() const;
    void outputs(auto&& visit) const { visit("weights", weights), visit("totals", totals); }
  };

  /// tokens[r] is the smallest v with Σ_{u <= v} weights[r, u] > floor(bits[r] · totals[r] / 2^64).
  struct draw_args {
    static constexpr const char* name = "token_distribution.draw";
    view<const std::uint64_t, 2> weights;  // [rows, vocab]
    view<const std::uint64_t, 1> totals;   // [rows]   sums of the weights, positive
    view<const std::uint64_t, 1> bits;     // [rows]   uniform
    view<std::int32_t, 1> tokens;          // [rows]   written
    status check() const;
    void outputs(auto&& visit) const { visit("tokens", tokens); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void draw(Ctx&, const draw_args&);
};

template <precision P>
status token_distribution<P>::forward_args::check() const {
  requirements need{name};
  need.equal("options", "rows", options.extent(0), "logits", logits.extent(0))
      .equal("weights", "rows", weights.extent(0), "logits", logits.extent(0))
      .equal("weights", "columns", weights.extent(1), "logits", logits.extent(1))
      .equal("totals", "rows", totals.extent(0), "logits", logits.extent(0))
      .that(logits.extent(1) <= most_tokens, "a vocabulary has at most 1048576 tokens",
            {{"vocab", logits.extent(1)}})
      .present("logits", logits)
      .present("options", options)
      .present("seen", seen)
      .present("weights", weights)
      .present("totals", totals);
  if (!seen.empty() || !seen_offsets.empty())
    need.equal("seen_offsets", "elements", seen_offsets.extent(0), "rows + 1", logits.extent(0) + 1)
        .present("seen_offsets", seen_offsets);
  return need.verdict();
}

template <precision P>
status token_distribution<P>::draw_args::check() const {
  return requirements{name}
      .equal("totals", "rows", totals.extent(0), "weights", weights.extent(0))
      .equal("bits", "rows", bits.extent(0), "weights", weights.extent(0))
      .equal("tokens", "rows", tokens.extent(0), "weights", weights.extent(0))
      .present("weights", weights)
      .present("totals", totals)
      .present("bits", bits)
      .present("tokens", tokens)
      .verdict();
}

template <precision P>
template <execution_context Ctx>
void token_distribution<P>::forward(Ctx& ctx, const forward_args& args) {
  invoke<token_distribution>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void token_distribution<P>::draw(Ctx& ctx, const draw_args& args) {
  invoke<token_distribution>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
