// SPDX-License-Identifier: MIT
// Tokens to experts and back on one rank: the plan of a batch, and the moves it describes.
#pragma once

#include <dsv3/op/expert/permute.hpp>
#include <dsv3/op/quant/dispatch_quantizer.hpp>
#include <dsv3/tensor/layout_policy.hpp>

namespace dsv3::inline DSV3_ABI {

/// The layout policy decides how the experts' rows lie; everything else reads offsets and counts.
template <precision P, layout_policy L = default_layout>
struct expert_dispatch {
  index_t experts = 0, top_k = 0;

  permutation_config plan_config(index_t tokens) const {
    using layout = typename L::experts;
    if constexpr (requires { layout::alignment; })
      return {.tokens = tokens, .top_k = top_k, .experts = experts, .alignment = layout::alignment};
    else
      return {.tokens = tokens, .top_k = top_k, .experts = experts, .masked = true};
  }

  template <execution_context Ctx>
  void plan(Ctx& ctx, view<const std::int32_t, 2> ids, const permutation& plan) const {
    op::permute<P>::plan(ctx, {.ids = ids, .plan = plan});
  }
  /// x [tokens, width] → rows [row capacity, width]
  template <execution_context Ctx>
  void dispatch(Ctx& ctx, view<const activation<P>, 2> x, const permutation_view& plan,
                view<activation<P>, 2> rows) const {
    op::permute<P>::dispatch(ctx, {.x = x, .plan = plan, .rows = rows});
  }
  /// The same in 8 bits, with the exchange's scales.
  template <execution_context Ctx>
  void dispatch_scaled(Ctx& ctx, view<const activation<P>, 2> x, const permutation_view& plan,
                       const scaled_view<fp8_e4m3, row_tile>& rows, const fp8_recipe& recipe) const {
    op::dispatch_quantizer<P>::forward(
        ctx, {.x = x, .plan = plan, .rows = rows, .scales = recipe.exchanged_scales, .group = recipe.inputs});
  }
  /// rows [row capacity, width], added to `add` [tokens, width] when it is not empty → y [tokens, width]
  template <execution_context Ctx>
  void combine(Ctx& ctx, view<const activation<P>, 2> rows, const permutation_view& plan,
               view<const activation<P>, 2> add, view<activation<P>, 2> y) const {
    op::permute<P>::combine(ctx, {.rows = rows, .plan = plan, .add = add, .y = y});
  }
  template <execution_context Ctx>
  void dispatch_gates(Ctx& ctx, view<const accumulator<P>, 2> gates, const permutation_view& plan,
                      view<accumulator<P>, 1> row_gates) const {
    op::permute<P>::dispatch_gates(ctx, {.gates = gates, .plan = plan, .row_gates = row_gates});
  }
  template <execution_context Ctx>
  void combine_gates(Ctx& ctx, view<const accumulator<P>, 1> row_gates, const permutation_view& plan,
                     view<accumulator<P>, 2> gates) const {
    op::permute<P>::combine_gates(ctx, {.row_gates = row_gates, .plan = plan, .gates = gates});
  }
};

}  // namespace dsv3::inline DSV3_ABI
