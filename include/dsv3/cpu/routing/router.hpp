// SPDX-License-Identifier: MIT
// The router on the CPU: products as everywhere, and each token's choice.
#pragma once

#include <dsv3/cpu/host/math.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/linear/tiles.hpp>
#include <dsv3/cpu/routing/leaders.hpp>
#include <dsv3/op/routing/router.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::router<P>, backend::cpu> {
  using op_type = op::router<P>;
  using acc = accumulator<P>;
  using forward_args = typename op_type::forward_args;
  using backward_data_args = typename op_type::backward_data_args;
  using backward_weights_args = typename op_type::backward_weights_args;

  struct forward_scratch {
    acc* panels;                   // of the product
    view<acc, 2> choice;           // [slots, experts]              c
    view<acc, 2> best;             // [slots, top_k + kept groups]  values of the leaders
    view<std::int32_t, 2> groups;  // [slots, kept groups]          those that stay
  };
  template <class Ctx>
  static forward_scratch scratch(const Ctx& ctx, scratch_arena& arena, const forward_args& args) {
    const router_config& c = args.config;
    const index_t slots = std::max(ctx.threads, 1);
    return {panels(ctx.threads, arena, product_of(args)), arena.tensor<acc>(slots, c.experts),
            arena.tensor<acc>(slots, c.top_k + c.kept_groups),
            arena.tensor<std::int32_t>(slots, c.kept_groups)};
  }
  template <class Ctx>
  static acc* scratch(const Ctx& ctx, scratch_arena& arena, const backward_data_args& args) {
    return panels(ctx.threads, arena, product_of(args));
  }
  template <class Ctx>
  static acc* scratch(const Ctx& ctx, scratch_arena& arena, const backward_weights_args& args) {
    return panels(ctx.threads, arena, product_of(args));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const forward_scratch work = scratch(ctx, ctx.scratch, args);
    multiply(ctx.threads, product_of(args), work.panels);
    each_token(ctx.threads, args.config, args.x.extent(0),
               [&](index_t slot, index_t t) { choose(args, work, slot, t); });
    if (args.load.empty()) return;
    for (index_t t = 0; t < args.ids.extent(0); ++t)
      for (index_t k = 0; k < args.ids.extent(1); ++k) ++args.load(args.ids(t, k));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_data_args& args) {
    each_token(ctx.threads, args.config, args.dx.extent(0),
               [&](index_t, index_t t) { backward_choice(args, t); });
    multiply(ctx.threads, product_of(args), scratch(ctx, ctx.scratch, args));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_weights_args& args) {
    multiply(ctx.threads, product_of(args), scratch(ctx, ctx.scratch, args));
  }

 private:
  // z = x · centroidsᵀ, into the scores
  static auto product_of(const forward_args& args) {
    return cpu::tiled_product<activation<P>, master<P>, acc>{
        cpu::transpose::no, args.x, cpu::transpose::yes, args.centroids, args.scores, store::write};
  }
  // dx = dz · centroids
  static auto product_of(const backward_data_args& args) {
    return cpu::tiled_product<acc, master<P>, activation<P>>{
        cpu::transpose::no, args.dlogits, cpu::transpose::no, args.centroids, args.dx, args.into};
  }
  // dcentroids += dzᵀ · x
  static auto product_of(const backward_weights_args& args) {
    return cpu::tiled_product<acc, activation<P>, gradient<P>>{
        cpu::transpose::yes, args.dlogits, cpu::transpose::no, args.x, args.dcentroids, args.into};
  }
  template <class Product>
  static acc* panels(int threads, scratch_arena& arena, const Product& p) {
    return cpu::tiles<acc, Product>::panels(arena, threads, {p.m(), p.n(), p.k()});
  }
  template <class Product>
  static void multiply(int threads, const Product& p, acc* panels) {
    const auto only = [&](index_t) { return p; };
    cpu::tiles<acc, Product>::run(threads, 1, {p.m(), p.n(), p.k()}, only, panels);
  }

  // body(slot, token), a few tokens at a time.
  template <class Body>
  static void each_token(int threads, const router_config& c, index_t tokens, Body&& body) {
    const index_t chunk = 1 + 8192 / c.experts;
    cpu::parallel_slots(threads, ceil_div(tokens, chunk), [&](index_t slot, index_t part) {
      for (index_t t = part * chunk; t < std::min((part + 1) * chunk, tokens); ++t) body(slot, t);
    });
  }

  // Only experts of groups that stay are offered. A masked expert thus loses even to minus infinity.
  static void choose(const forward_args& args, const forward_scratch& work, index_t slot, index_t t) {
    const router_config& c = args.config;
    const index_t members = c.group_experts();
    acc *s = args.scores[t].data(), *choice = work.choice[slot].data(), *best = work.best[slot].data();
    std::int32_t *ids = args.ids[t].data(), *groups = work.groups[slot].data();
    const master<P>* bias = args.bias.data();
    DSV3_SIMD
    for (index_t e = 0; e < c.experts; ++e) {
      s[e] = cpu::sigmoid(s[e]);
      choice[e] = s[e] + acc(bias[e]);
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
