// SPDX-License-Identifier: MIT
// Experts shared out among ranks, on the CPU: small loops over the slots of each token or row.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/op/expert/expert_ranks.hpp>

#include <algorithm>
#include <string>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::expert_ranks<P>, backend::cpu> {
  using op_type = op::expert_ranks<P>;
  using acc = accumulator<P>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::choose_args& args) {
    const index_t per_rank = args.experts / args.ranks, top_k = args.ids.extent(1);
    each(ctx.threads, args.ids.extent(0), top_k, [&](index_t t) {
      std::int32_t* ranks = args.chosen[t].data();
      index_t found = 0;
      for (index_t k = 0; k < top_k; ++k) {
        const std::int32_t e = args.ids(t, k);
        if (e < 0 || e >= args.experts)
          raise("expert_ranks.choose: token " + std::to_string(t) + ", slot " + std::to_string(k) +
                " has expert " + std::to_string(e) + ", expected 0 to " + std::to_string(args.experts - 1));
        const auto rank = static_cast<std::int32_t>(e / per_rank);
        std::int32_t* place = std::lower_bound(ranks, ranks + found, rank);
        if (place != ranks + found && *place == rank) continue;
        std::copy_backward(place, ranks + found, ranks + found + 1);
        *place = rank, ++found;
      }
      std::fill(ranks + found, ranks + args.chosen.extent(1), -1);
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::label_args& args) {
    const index_t tokens = args.ids.extent(0), top_k = args.ids.extent(1), width = args.row_experts.extent(1);
    each(ctx.threads, args.row_experts.extent(0), top_k, [&](index_t row) {
      std::int32_t* experts = args.row_experts[row].data();
      acc* gates = args.row_gates[row].data();
      const index_t t = args.sent.token_of(row), first = row / tokens * args.per_rank;
      index_t n = 0;
      for (index_t k = 0; t >= 0 && k < top_k; ++k) {
        const index_t e = args.ids(t, k) - first;
        if (e < 0 || e >= args.per_rank) continue;
        if (n == width) raise("expert_ranks.label: token " + std::to_string(t) + " chooses an expert twice");
        experts[n] = static_cast<std::int32_t>(e), gates[n] = args.gates(t, k), ++n;
      }
      std::fill(experts + n, experts + width, -1);
      std::fill(gates + n, gates + width, acc(0));
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::collect_args& args) {
    const index_t tokens = args.ids.extent(0), top_k = args.ids.extent(1), per_rank = args.per_rank;
    each(ctx.threads, tokens, top_k, [&](index_t t) {
      for (index_t j = 0; j < args.sent.row_of.extent(1); ++j) {
        const index_t row = args.sent.row_of(t, j);
        if (row < 0) continue;
        index_t n = 0;
        for (index_t k = 0; k < top_k; ++k)
          if (args.ids(t, k) / per_rank == row / tokens) args.gates(t, k) = args.row_gates(row, n++);
      }
    });
  }

 private:
  template <class Body>
  static void each(int threads, index_t count, index_t top_k, Body&& body) {
    cpu::parallel_ranges(threads, count, 1 + (1 << 12) / (top_k + 1), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) body(i);
    });
  }
};

}  // namespace dsv3::inline DSV3_ABI
