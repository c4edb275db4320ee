// SPDX-License-Identifier: MIT
// SwiGLU's output as the down projection reads it.
#pragma once

#include <dsv3/layer/operand.hpp>
#include <dsv3/op/expert/swiglu.hpp>
#include <dsv3/op/quant/swiglu_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

/// What SwiGLU reads, and which of its rows are live: token_of for the plain form, groups for the other.
template <precision P>
struct gated_rows {
  view<const activation<P>, 2> gate_up;          // [rows, 2 * inner]
  view<const accumulator<P>, 1> row_gates = {};  // [rows]
  view<const std::int32_t, 1> token_of = {};     // [rows]
  row_groups groups = {};

  index_t inner() const { return gate_up.extent(1) / 2; }
};

/// The operand, in scratch of the caller's frame; a precision that multiplies activations as they are gets
/// it in `y` where that is not empty.
template <precision P, execution_context Ctx>
operand_view<P> swiglu_operand(Ctx& ctx, const fp8_recipe& recipe, const gated_rows<P>& x,
                               view<activation<P>, 2> y = {}) {
  const index_t rows = x.gate_up.extent(0);
  const auto plain = [&](view<activation<P>, 2> to) {
    op::swiglu<P>::forward(ctx,
                           {.gate_up = x.gate_up, .y = to, .row_gates = x.row_gates, .token_of = x.token_of});
  };
  if constexpr (tilewise<P>) {
    const auto tiles = scratch_tiles<fp8_e4m3>(ctx, rows, x.inner());
    if (recipe.inputs == scale_group::tile) {
      op::swiglu_quantizer<P>::forward(ctx, {.gate_up = x.gate_up,
                                             .y = tiles,
                                             .row_gates = x.row_gates,
                                             .scales = recipe.scales,
                                             .groups = x.groups});
    } else {
      const scratch_frame frame{ctx.scratch};
      const auto wide = ctx.scratch.template tensor<activation<P>>(rows, x.inner());
      plain(wide);
      op::tile_quantizer<activation<P>, fp8_e4m3, row_tile>::forward(
          ctx, {.x = wide, .y = tiles, .scales = recipe.scales, .group = recipe.inputs, .groups = x.groups});
    }
    return tiles;
  } else {
    if (y.empty()) y = ctx.scratch.template tensor<activation<P>>(rows, x.inner());
    plain(y);
    return y;
  }
}

}  // namespace dsv3::inline DSV3_ABI
