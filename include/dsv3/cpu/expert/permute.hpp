// SPDX-License-Identifier: MIT
// Permutation on the CPU: a counting sort that keeps order, then rows copied and summed.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/op/expert/permute.hpp>

#include <algorithm>
#include <string>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::permute<P>, backend::cpu> {
  using op_type = op::permute<P>;
  using acc = accumulator<P>;
  using plan_args = typename op_type::plan_args;

  /// [lanes, experts]: how many slots of its tokens a lane sends to each expert; after the scan, where the
  /// next goes.
  template <class Ctx>
  static view<std::int32_t, 2> scratch(const Ctx& ctx, scratch_arena& arena, const plan_args& args) {
    return arena.tensor<std::int32_t>(lane_count(ctx.threads, args.ids), args.plan.config.experts);
  }

  // 1. lanes count, 2. a scan over (expert, lane) finds the rows, 3. lanes place, 4. what is left is padding.
  // Lanes are ascending ranges of tokens, so rows are in (token, slot) order whatever their number.
  template <class Ctx>
  static void run(Ctx& ctx, const plan_args& args) {
    const view<std::int32_t, 2> cursor = scratch(ctx, ctx.scratch, args);
    const index_t tokens = args.ids.extent(0), top_k = args.ids.extent(1), lanes = cursor.extent(0);
    const permutation& plan = args.plan;
    const index_t experts = plan.config.experts;

    cpu::parallel_parts(ctx.threads, lanes, [&](index_t lane) {
      std::int32_t* count = cursor[lane].data();
      std::fill_n(count, experts, 0);
      const index_range range = split_range(tokens, lane, lanes);
      for (index_t t = range.begin; t < range.end; ++t)
        for (index_t k = 0; k < top_k; ++k)
          if (const std::int32_t e = checked(args, t, k); e >= 0) ++count[e];
    });

    index_t row = 0;
    for (index_t e = 0; e < experts; ++e) {
      const index_t first = row;
      plan.offsets(e) = static_cast<std::int32_t>(first);
      for (index_t lane = 0; lane < lanes; ++lane) {
        const std::int32_t count = cursor(lane, e);
        cursor(lane, e) = static_cast<std::int32_t>(row);
        row += count;
      }
      plan.counts(e) = static_cast<std::int32_t>(row - first);
      if (plan.config.masked && row - first > tokens)
        raise("permute.plan: expert " + std::to_string(e) + " is chosen " + std::to_string(row - first) +
              " times by " + std::to_string(tokens) +
              " tokens, expected at most once each in the masked layout");
      row = first + (plan.config.masked ? tokens : round_up(row - first, plan.config.alignment));
    }
    plan.offsets(experts) = static_cast<std::int32_t>(row);
    if (row > plan.token_of.extent(0))
      raise("permute.plan: the experts are given " + std::to_string(row) +
            " rows, padding included, there is room for " + std::to_string(plan.token_of.extent(0)));

    cpu::parallel_parts(ctx.threads, lanes, [&](index_t lane) {
      std::int32_t* next = cursor[lane].data();
      const index_range range = split_range(tokens, lane, lanes);
      for (index_t t = range.begin; t < range.end; ++t)
        for (index_t k = 0; k < top_k; ++k) {
          const std::int32_t e = args.ids(t, k), to = e < 0 ? no_row : next[e]++;
          plan.row_of(t, k) = to;
          if (to >= 0) plan.token_of(to) = static_cast<std::int32_t>(t);
        }
    });

    for (index_t e = 0; e < experts; ++e)
      mark_padding(plan, plan.offsets(e) + plan.counts(e), plan.offsets(e + 1));
    mark_padding(plan, plan.offsets(experts), plan.token_of.extent(0));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::dispatch_args& args) {
    const index_t width = args.x.extent(1), top_k = args.plan.row_of.extent(1);
    each_token(ctx.threads, args.plan, width, [&](index_t t) {
      for (index_t k = 0; k < top_k; ++k)
        if (const index_t row = args.plan.row_of(t, k); row >= 0)
          std::copy_n(args.x[t].data(), width, args.rows[row].data());
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::combine_args& args) {
    constexpr index_t strip = 64;  // short: the token's rows are fetched side by side, not one by one
    const index_t width = args.y.extent(1), top_k = args.plan.row_of.extent(1);
    each_token(ctx.threads, args.plan, width, [&](index_t t) {
      for (index_t first = 0; first < width; first += strip) {
        const index_t columns = std::min(strip, width - first);
        acc sums[strip];
        std::fill_n(sums, columns, acc(0));
        if (!args.add.empty()) add_columns(args.add[t].data() + first, columns, sums);
        for (index_t k = 0; k < top_k; ++k)
          if (const index_t row = args.plan.row_of(t, k); row >= 0)
            add_columns(args.rows[row].data() + first, columns, sums);
        activation<P>* y = args.y[t].data() + first;
        DSV3_SIMD
        for (index_t i = 0; i < columns; ++i) y[i] = activation<P>(sums[i]);
      }
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::dispatch_gates_args& args) {
    each_token(ctx.threads, args.plan, 1, [&](index_t t) {
      for (index_t k = 0; k < args.gates.extent(1); ++k)
        if (const index_t row = args.plan.row_of(t, k); row >= 0) args.row_gates(row) = args.gates(t, k);
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::combine_gates_args& args) {
    each_token(ctx.threads, args.plan, 1, [&](index_t t) {
      for (index_t k = 0; k < args.gates.extent(1); ++k) {
        const index_t row = args.plan.row_of(t, k);
        args.gates(t, k) = row >= 0 ? args.row_gates(row) : acc(0);
      }
    });
  }

  /// Calls body(t) for every token of a plan whose rows have `width` columns.
  template <class Body>
  static void each_token(int threads, const permutation_view& plan, index_t width, Body&& body) {
    const index_t grain = 1 + (1 << 14) / (plan.row_of.extent(1) * width + 1);
    cpu::parallel_ranges(threads, plan.row_of.extent(0), grain, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) body(t);
    });
  }

 private:
  template <class Ids>
  static index_t lane_count(int threads, const Ids& ids) {
    constexpr index_t worthwhile = 1 << 14;  // slots
    return std::clamp<index_t>(ids.size() / worthwhile, 1, std::max(threads, 1));
  }

  static std::int32_t checked(const plan_args& args, index_t t, index_t k) {
    const std::int32_t e = args.ids(t, k);
    if (e < -1 || e >= args.plan.config.experts)
      raise("permute.plan: token " + std::to_string(t) + ", slot " + std::to_string(k) + " has expert " +
            std::to_string(e) + ", expected 0 to " + std::to_string(args.plan.config.experts - 1) +
            ", or -1 for none");
    return e;
  }

  static void mark_padding(const permutation& plan, index_t begin, index_t end) {
    std::fill(plan.token_of.data() + begin, plan.token_of.data() + end, -1);
  }

  // Not inlined: g++ would jam the loop over rows into this one and gather their elements one by one.
  [[gnu::noinline]] static void add_columns(const activation<P>* from, index_t columns, acc* sums) {
    DSV3_SIMD
    for (index_t i = 0; i < columns; ++i) sums[i] += acc(from[i]);
  }
};

}  // namespace dsv3::inline DSV3_ABI
