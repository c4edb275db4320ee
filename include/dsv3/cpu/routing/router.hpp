// SPDX-License-Identifier: MIT
// The router on the CPU: a product per block of tokens, then each token's choice.
#pragma once

#include <dsv3/cpu/host/math.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/host/product.hpp>
#include <dsv3/cpu/routing/leaders.hpp>
#include <dsv3/op/routing/router.hpp>

#include <algorithm>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::router<P>, backend::cpu> {
  using op_type = op::router<P>;
  using acc = accumulator<P>;
  using forward_args = typename op_type::forward_args;
  using backward_data_args = typename op_type::backward_data_args;
  using backward_weights_args = typename op_type::backward_weights_args;
  static_assert(
      std::is_same_v<master<P>, acc> && std::is_same_v<gradient<P>, acc>,
      "dsv3: the CPU's router multiplies accumulators with masters and gradients: make the three one type");

  struct forward_scratch {
    view<acc, 3> panels;  // [slots, block, hidden]        tokens in the accumulator, where they are not
    view<acc, 2> choice;  // [slots, experts]              c
    view<acc, 2> best;    // [slots, top_k + kept groups]  values of the leaders
    view<std::int32_t, 2> groups;  // [slots, kept groups]          those that stay
  };
  template <class Ctx>
  static forward_scratch scratch(const Ctx& ctx, scratch_arena& arena, const forward_args& args) {
    const index_t slots = slot_count(ctx.threads, ceil_div(args.x.extent(0), block));
    const router_config& c = args.config;
    return {panels(arena, slots, c.hidden), arena.tensor<acc>(slots, c.experts),
            arena.tensor<acc>(slots, c.top_k + c.kept_groups),
            arena.tensor<std::int32_t>(slots, c.kept_groups)};
  }
  template <class Ctx>
  static view<acc, 3> scratch(const Ctx& ctx, scratch_arena& arena, const backward_data_args& args) {
    return panels(arena, slot_count(ctx.threads, ceil_div(args.dx.extent(0), block)), args.dx.extent(1));
  }
  template <class Ctx>
  static view<acc, 3> scratch(const Ctx& ctx, scratch_arena& arena, const backward_weights_args& args) {
    return panels(arena, slot_count(ctx.threads, ceil_div(args.x.extent(1), strip)), strip);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const forward_scratch work = scratch(ctx, ctx.scratch, args);
    each_block(ctx.threads, args.x.extent(0), [&](index_t slot, index_t begin, index_t end) {
      multiply(cpu::transpose::no, cpu::transpose::yes, widened(args.x.rows(begin, end), work.panels, slot),
               args.centroids, store::write, args.scores.rows(begin, end));
      for (index_t t = begin; t < end; ++t) choose(args, work, slot, t);
    });
    if (args.load.empty()) return;
    for (index_t t = 0; t < args.ids.extent(0); ++t)
      for (index_t k = 0; k < args.ids.extent(1); ++k) ++args.load(args.ids(t, k));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_data_args& args) {
    const view<acc, 3> work = scratch(ctx, ctx.scratch, args);
    each_block(ctx.threads, args.dx.extent(0), [&](index_t slot, index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) backward_choice(args, t);
      const view<const acc, 2> dz = args.dlogits.rows(begin, end);
      const view<activation<P>, 2> dx = args.dx.rows(begin, end);
      if constexpr (std::is_same_v<activation<P>, acc>) {
        multiply(cpu::transpose::no, cpu::transpose::no, dz, args.centroids, args.into, dx);
      } else {
        const view<acc, 2> panel = work[slot].rows(0, end - begin);
        multiply(cpu::transpose::no, cpu::transpose::no, dz, args.centroids, store::write, panel);
        for (index_t t = 0; t < end - begin; ++t) narrow(panel[t].data(), dx[t], args.into);
      }
    });
  }

  // Each strip of columns sums over tokens in one order, whichever thread takes it.
  template <class Ctx>
  static void run(Ctx& ctx, const backward_weights_args& args) {
    const view<acc, 3> work = scratch(ctx, ctx.scratch, args);
    const index_t tokens = args.x.extent(0), hidden = args.x.extent(1);
    cpu::parallel_slots(ctx.threads, ceil_div(hidden, strip), [&](index_t slot, index_t part) {
      const index_t first = part * strip, last = std::min(first + strip, hidden);
      for (index_t begin = 0; begin < tokens; begin += block) {
        const index_t end = std::min(begin + block, tokens);
        multiply(cpu::transpose::yes, cpu::transpose::no, args.dlogits.rows(begin, end),
                 widened(args.x.rows(begin, end).columns(first, last), work, slot), store::add,
                 args.dcentroids.columns(first, last));
      }
    });
  }

 private:
  static constexpr index_t block = 128;  // tokens of one product
  static constexpr index_t strip = 128;  // columns of dcentroids of one product

  static index_t slot_count(int threads, index_t parts) {
    return std::min<index_t>(parts, std::max(threads, 1));
  }
  static view<acc, 3> panels(scratch_arena& arena, index_t slots, index_t width) {
    return arena.tensor<acc>(std::is_same_v<activation<P>, acc> ? 0 : slots, block, width);
  }

  // body(slot, begin, end) for every block of tokens, whatever the thread count: so results do not depend on
  // it.
  template <class Body>
  static void each_block(int threads, index_t tokens, Body&& body) {
    cpu::parallel_slots(threads, ceil_div(tokens, block), [&](index_t slot, index_t part) {
      body(slot, part * block, std::min((part + 1) * block, tokens));
    });
  }

  static void multiply(cpu::transpose ta, cpu::transpose tb, const view<const acc, 2>& a,
                       const view<const acc, 2>& b, store into, const view<acc, 2>& c) {
    cpu::product<acc>(ta, tb, c.extent(0), c.extent(1), a.extent(ta == cpu::transpose::no ? 1 : 0), 1,
                      a.data(), a.stride(0), b.data(), b.stride(0), into == store::add ? 1 : 0, c.data(),
                      c.stride(0));
  }

  static view<const acc, 2> widened(const view<const activation<P>, 2>& x,
                                    [[maybe_unused]] const view<acc, 3>& panels,
                                    [[maybe_unused]] index_t slot) {
    if constexpr (std::is_same_v<activation<P>, acc>) {
      return x;
    } else {
      const view<acc, 2> panel = panels[slot].rows(0, x.extent(0)).columns(0, x.extent(1));
      for (index_t t = 0; t < x.extent(0); ++t) {
        const activation<P>* from = x[t].data();
        acc* to = panel[t].data();
        DSV3_SIMD
        for (index_t i = 0; i < x.extent(1); ++i) to[i] = acc(from[i]);
      }
      return panel;
    }
  }

  static void narrow(const acc* from, const view<activation<P>, 1>& row, store into) {
    activation<P>* to = row.data();
    if (into == store::add) {
      DSV3_SIMD
      for (index_t i = 0; i < row.extent(0); ++i) to[i] = activation<P>(acc(to[i]) + from[i]);
    } else {
      DSV3_SIMD
      for (index_t i = 0; i < row.extent(0); ++i) to[i] = activation<P>(from[i]);
    }
  }

  // Only experts of groups that stay are offered. A masked expert thus loses even to minus infinity.
  static void choose(const forward_args& args, const forward_scratch& work, index_t slot, index_t t) {
    const router_config& c = args.config;
    const index_t members = c.group_experts();
    acc *s = args.scores[t].data(), *choice = work.choice[slot].data(), *best = work.best[slot].data();
    std::int32_t *ids = args.ids[t].data(), *groups = work.groups[slot].data();
    const acc* bias = args.bias.data();
    DSV3_SIMD
    for (index_t e = 0; e < c.experts; ++e) {
      s[e] = cpu::sigmoid(s[e]);
      choice[e] = s[e] + bias[e];
    }
    cpu::leaders<acc> kept{best + c.top_k, groups, c.kept_groups};
    for (index_t g = 0; g < c.groups; ++g) {
      cpu::leaders<acc> top{best, ids, c.group_top()};
      for (index_t e = g * members; e < (g + 1) * members; ++e) top.offer(choice[e], e);
      kept.offer(top.sum(), g);
    }
    std::sort(groups, groups + c.kept_groups);  // experts are offered by ascending index
    cpu::leaders<acc> chosen{best, ids, c.top_k};
    for (index_t g = 0; g < c.kept_groups; ++g)
      for (index_t e = groups[g] * members; e < (groups[g] + 1) * members; ++e) chosen.offer(choice[e], e);

    const acc factor = acc(c.scale) / gate_divisor(c, s, ids);
    acc* gates = args.gates[t].data();
    for (index_t k = 0; k < c.top_k; ++k) gates[k] = factor * s[ids[k]];
  }

  // Z, or 1 where gates are not normalised.
  static acc gate_divisor(const router_config& c, const acc* s, const std::int32_t* ids) {
    if (c.normalise == gate_norm::none) return 1;
    acc sum = acc(1e-20);
    for (index_t k = 0; k < c.top_k; ++k) sum += s[ids[k]];
    return sum;
  }

  static void backward_choice(const backward_data_args& args, index_t t) {
    const router_config& c = args.config;
    const acc *s = args.scores[t].data(), *dgates = args.dgates[t].data();
    const std::int32_t* ids = args.ids[t].data();
    acc* dz = args.dlogits[t].data();
    std::fill_n(dz, c.experts, acc(0));
    if (!args.dscores.empty()) std::copy_n(args.dscores[t].data(), c.experts, dz);
    const acc divisor = gate_divisor(c, s, ids), factor = acc(c.scale) / divisor;
    acc mean = 0;  // A, the mean of dgates under p
    if (c.normalise == gate_norm::sum_to_one)
      for (index_t k = 0; k < c.top_k; ++k) mean += dgates[k] * (s[ids[k]] / divisor);
    for (index_t k = 0; k < c.top_k; ++k) dz[ids[k]] += factor * (dgates[k] - mean);
    DSV3_SIMD
    for (index_t e = 0; e < c.experts; ++e) dz[e] *= s[e] * (1 - s[e]);
  }
};

}  // namespace dsv3::inline DSV3_ABI
