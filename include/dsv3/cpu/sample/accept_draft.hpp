// SPDX-License-Identifier: MIT
// Verification of drafts on the CPU: sequences shared among threads, whole numbers throughout.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/sample/first_above.hpp>
#include <dsv3/number/wide.hpp>
#include <dsv3/op/sample/accept_draft.hpp>

#include <string>

namespace dsv3::inline DSV3_ABI {

template <>
struct implementation<op::accept_draft, backend::cpu> {
  using forward_args = op::accept_draft::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    require_inputs(args);
    cpu::parallel_parts(ctx.threads, args.accepted.extent(0), [&](index_t b) {
      const index_t first = args.offsets(b), drafts = args.offsets(b + 1) - first;
      index_t i = 0;
      while (i < drafts && accepts(args, first + i, first + i + b)) ++i;
      const index_t row = first + i + b;
      args.accepted(b) = static_cast<std::int32_t>(i);
      args.next(b) =
          static_cast<std::int32_t>(i < drafts ? draw_residual(args, first + i, row) : draw_bonus(args, row));
    });
    for (index_t b = 0; b < args.next.extent(0); ++b)
      if (args.next(b) < 0)
        wrong("the weights of sequence " + std::to_string(b) + " in target row " +
              std::to_string(args.offsets(b) + args.accepted(b) + b) + " do not sum to the row's total");
  }

 private:
  [[noreturn]] static void wrong(const std::string& sentence) {
    raise(std::string(forward_args::name) + ": " + sentence);
  }

  // Before anything is written, and on one thread, so that the sentence is always about the first mistake.
  static void require_inputs(const forward_args& args) {
    const index_t sequences = args.accepted.extent(0), drafts = args.drafted.extent(0);
    for (index_t b = 0; b <= sequences; ++b) {
      const index_t least = b == 0 ? 0 : args.offsets(b - 1), most = b == 0 ? 0 : drafts;
      if (args.offsets(b) < least || args.offsets(b) > most)
        wrong("offsets[" + std::to_string(b) + "] is " + std::to_string(args.offsets(b)) + ", expected " +
              std::to_string(least) + " to " + std::to_string(most));
    }
    if (args.offsets(sequences) != drafts)
      wrong("the last offset is " + std::to_string(args.offsets(sequences)) + ", expected the " +
            std::to_string(drafts) + " drafts");
    for (index_t row = 0; row < args.target_totals.extent(0); ++row)
      if (args.target_totals(row) == 0)
        wrong("the total of target row " + std::to_string(row) + " is 0, expected a positive one");
    for (index_t d = 0; d < drafts; ++d) {
      const std::int32_t y = args.drafted(d);
      if (y < 0 || y >= args.draft.extent(1))
        wrong("drafted token " + std::to_string(d) + " is " + std::to_string(y) + ", expected an id below " +
              std::to_string(args.draft.extent(1)));
      if (args.draft(d, y) == 0 || args.draft_totals(d) == 0)
        wrong("drafted token " + std::to_string(d) + ", " + std::to_string(y) +
              ", has no weight in its draft distribution, expected one that was drawn from it");
    }
  }

  static bool accepts(const forward_args& args, index_t d, index_t row) {
    const std::int32_t y = args.drafted(d);
    const uint128 p = wide_product(args.target(row, y), args.draft_totals(d));
    const uint128 q = wide_product(args.draft(d, y), args.target_totals(row));
    return scale_bits_wide(args.bits(2 * row), q) < p;
  }

  static index_t draw_residual(const forward_args& args, index_t d, index_t row) {
    const index_t vocab = args.target.extent(1);
    const std::uint64_t *p = args.target[row].data(), *q = args.draft[d].data();
    const std::uint64_t p_total = args.target_totals(row), q_total = args.draft_totals(d);
    const auto residual = [=](index_t v) {
      const uint128 more = wide_product(p[v], q_total), less = wide_product(q[v], p_total);
      return more > less ? more - less : uint128{0};
    };
    const uint128 total = cpu::weight_sum<uint128>(0, vocab, residual);
    return cpu::first_above(scale_bits_wide(args.bits(2 * row + 1), total), vocab, residual);
  }

  static index_t draw_bonus(const forward_args& args, index_t row) {
    const std::uint64_t* p = args.target[row].data();
    return cpu::first_above(scale_bits(args.bits(2 * row + 1), args.target_totals(row)),
                            args.target.extent(1), [p](index_t v) { return p[v]; });
  }
};

}  // namespace dsv3::inline DSV3_ABI
