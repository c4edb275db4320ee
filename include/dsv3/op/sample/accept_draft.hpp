// SPDX-License-Identifier: MIT
// Verification of drafted tokens: what speculative decoding commits (report, section 5.4.3).
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::op {

/// Sequence b has n drafted tokens y[0..n), the distributions q[0..n) they were drawn from, and n + 1 target
/// distributions p[0..n], all in the integer weights of `token_distribution`: p = target / target_total. The
/// drafts are taken from left to right:
///   accept y[i] with probability min(1, p[i][y] / q[i][y])
///   at the first rejection stop; next ~ max(p[i] - q[i], 0), normalised
///   all accepted:                next ~ p[n]
/// What is committed, the accepted drafts and then `next`, is distributed as if drawn from the target alone.
/// Everything is decided in whole numbers. With P, Q the totals, u and d the two uniforms of target row i:
///   accept    where floor(u · w_q[y] · P / 2^64) < w_p[y] · Q
///   residual  r[v] = max(w_p[v] · Q - w_q[v] · P, 0), below 2^128 together; R = Σ r
///   next      the smallest v with Σ_{k <= v} r[k] > floor(d · R / 2^64);  for the last row with r = w_p
/// Greedy rows (one weight) need no case of their own: y is accepted exactly where it is the target's token,
/// and otherwise that token is next.
struct accept_draft {
  struct forward_args {
    static constexpr const char* name = "accept_draft.forward";
    view<const std::uint64_t, 2> target;  // [drafts + sequences, vocab]   those of b begin at offsets(b) + b
    view<const std::uint64_t, 1> target_totals;  // [drafts + sequences]          sums, positive
    view<const std::uint64_t, 2> draft;          // [drafts, vocab]
    view<const std::uint64_t, 1> draft_totals;   // [drafts]                      sums, positive
    view<const std::int32_t, 1> drafted;         // [drafts]                      drawn from `draft`
    view<const std::int32_t, 1> offsets;         // [sequences + 1]               which drafts are whose
    view<const std::uint64_t, 1> bits;           // [2 · (drafts + sequences)]    u and d of each target row
    view<std::int32_t, 1> accepted;              // [sequences]    written: how many drafts stay
    view<std::int32_t, 1> next;                  // [sequences]    written: the token after them
    status check() const;
    void outputs(auto&& visit) const { visit("accepted", accepted), visit("next", next); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
};

inline status accept_draft::forward_args::check() const {
  const index_t sequences = accepted.extent(0), drafts = drafted.extent(0), rows = drafts + sequences;
  requirements need{name};
  need.equal("offsets", "elements", offsets.extent(0), "sequences + 1", sequences + 1)
      .equal("next", "sequences", next.extent(0), "accepted", sequences)
      .equal("draft", "rows", draft.extent(0), "drafted", drafts)
      .equal("draft_totals", "rows", draft_totals.extent(0), "drafted", drafts)
      .equal("target", "rows", target.extent(0), "drafts + sequences", rows)
      .equal("target_totals", "rows", target_totals.extent(0), "drafts + sequences", rows)
      .equal("bits", "elements", bits.extent(0), "2 (drafts + sequences)", 2 * rows)
      .present("target", target)
      .present("target_totals", target_totals)
      .present("draft", draft)
      .present("draft_totals", draft_totals)
      .present("drafted", drafted)
      .present("offsets", offsets)
      .present("bits", bits)
      .present("accepted", accepted)
      .present("next", next);
  if (drafts > 0) need.equal("draft", "columns", draft.extent(1), "target", target.extent(1));
  return need.verdict();
}

template <execution_context Ctx>
void accept_draft::forward(Ctx& ctx, const forward_args& args) {
  invoke<accept_draft>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
