// SPDX-License-Identifier: MIT
// SwiGLU between its two products: its output as the down projection reads it, its gradient as the others do.
#pragma once

#include <dsv3/layer/kept_rows.hpp>
#include <dsv3/layer/operand.hpp>
#include <dsv3/op/expert/swiglu.hpp>
#include <dsv3/op/quant/stored_swiglu.hpp>
#include <dsv3/op/quant/swiglu_quantizer.hpp>
#include <dsv3/op/quant/transposing_quantizer.hpp>

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

namespace detail {

/// Whether one operation makes SwiGLU's operands from what is kept, with nothing wide in memory.
inline bool gates_in_registers(const fp8_recipe& recipe, const narrow_rows_config& kept) {
  return recipe.inputs == scale_group::tile && recipe.gradients == scale_group::tile &&
         kept.format == stored_format::e4m3 && kept.columns > 0 && kept.columns % 256 == 0;
}

}  // namespace detail

/// swiglu_operand of rows that are kept for backward in `kept`.
template <precision P, execution_context Ctx>
operand_view<P> keep_and_gate(Ctx& ctx, const fp8_recipe& recipe, const gated_rows<P>& x,
                              const kept_rows<P>& kept, view<activation<P>, 2> y = {}) {
  if constexpr (tilewise<P>)
    if (detail::gates_in_registers(recipe, kept.config)) {
      const auto tiles = scratch_tiles<fp8_e4m3>(ctx, x.gate_up.extent(0), x.inner());
      op::stored_swiglu<P>::forward(ctx, {.gate_up = x.gate_up,
                                          .kept = as_tiles<std::uint8_t>(kept),
                                          .y = tiles,
                                          .row_gates = x.row_gates,
                                          .scales = recipe.scales,
                                          .groups = x.groups});
      return tiles;
    }
  kept.keep(ctx, x.gate_up, recipe.scales, x.groups);
  return swiglu_operand<P>(ctx, recipe, x, y);
}

/// What the weights' product reads of SwiGLU's output, made once more from what is kept; `columns` cuts rows
/// in tiles anew. `x` says everything but the input.
template <tilewise P, execution_context Ctx, class Columns>
operand_view<P> gate_again(Ctx& ctx, const fp8_recipe& recipe, gated_rows<P> x, const kept_rows<P>& kept,
                           Columns&& columns) {
  const index_t rows = kept.config.rows, inner = kept.config.columns / 2;
  if (detail::gates_in_registers(recipe, kept.config)) {
    const auto t = scratch_tiles<fp8_e4m3>(ctx, inner, rows, x.groups.tiles(rows));
    op::stored_swiglu<P>::again(ctx, {.kept = as_tiles<const std::uint8_t>(kept),
                                      .t = t,
                                      .row_gates = x.row_gates,
                                      .scales = recipe.scales,
                                      .groups = x.groups});
    return t;
  }
  x.gate_up = kept.load(ctx, x.groups);
  return columns(swiglu_operand<P>(ctx, recipe, x));
}

struct gated_delta_config {
  index_t rows = 0, columns = 0;
  index_t tiles = 0;  // along the rows, of all groups
};

/// The gradient of SwiGLU's input between the halves of backward, a bundle: as both products read it, or as
/// that of the weights does.
template <precision P>
struct gated_delta {
  gated_delta_config config;
  view<activation<P>, 2> values;  // [rows, columns]

  template <class Visit, class... Self>
  static void each_field(const gated_delta_config& c, Visit&& visit, Self&... self) {
    visit("values", shape{c.rows, c.columns}, self.values...);
  }

  /// What backward writes and the product for the layer's input reads.
  template <class Ctx>
  view<activation<P>, 2> rows(Ctx&) const {
    return values;
  }
  view<const activation<P>, 2> columns() const { return values; }
};

template <tilewise P>
struct gated_delta<P> {
  gated_delta_config config;
  view<fp8_e4m3, 2> codes;  // [columns, rows], in the recipe's format of gradients
  view<float, 2> scales;    // [tiles, columns]

  template <class Visit, class... Self>
  static void each_field(const gated_delta_config& c, Visit&& visit, Self&... self) {
    visit("codes", shape{c.columns, c.rows}, self.codes...);
    visit("scales", shape{c.tiles, c.columns}, self.scales...);
  }

  template <class Ctx>
  scaled_view<fp8_e4m3, row_tile> rows(Ctx& ctx) const {
    return scratch_tiles<fp8_e4m3>(ctx, config.rows, config.columns);
  }
  scaled_view<fp8_e4m3, row_tile> columns() const {
    return {codes, scaled_view<fp8_e4m3, row_tile>::scales_at(scales.data(), {config.columns, config.tiles})};
  }
};

/// What SwiGLU's backward reads besides what is kept, and the gradient of the rows' gates.
template <precision P>
struct gated_slopes {
  view<const activation<P>, 2> dy;               // [rows, inner]
  view<const accumulator<P>, 1> row_gates = {};  // [rows]
  view<accumulator<P>, 1> d_row_gates = {};      // [rows]    written when not empty
  view<const std::int32_t, 1> token_of = {};     // [rows]
  row_groups groups = {};
};

/// SwiGLU's backward into `rows`, which delta.rows gave, and into delta.columns.
template <precision P, execution_context Ctx>
void swiglu_backward(Ctx& ctx, const fp8_recipe& recipe, const gated_slopes<P>& x, const kept_rows<P>& kept,
                     const operand_rows<P>& rows, const gated_delta<P>& delta) {
  const scratch_frame frame{ctx.scratch};
  const auto plain = [&](view<activation<P>, 2> to) {
    op::swiglu<P>::backward(ctx, {.dy = x.dy,
                                  .gate_up = kept.load(ctx, x.groups),
                                  .d_gate_up = to,
                                  .row_gates = x.row_gates,
                                  .d_row_gates = x.d_row_gates,
                                  .token_of = x.token_of});
  };
  if constexpr (tilewise<P>)
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      const auto y = as_codes<Gradient>(rows), t = as_codes<Gradient>(delta.columns());
      if (detail::gates_in_registers(recipe, kept.config))
        return op::stored_swiglu<P, Gradient>::backward(ctx, {.dy = x.dy,
                                                              .kept = as_tiles<const std::uint8_t>(kept),
                                                              .y = y,
                                                              .t = t,
                                                              .row_gates = x.row_gates,
                                                              .d_row_gates = x.d_row_gates,
                                                              .scales = recipe.scales,
                                                              .groups = x.groups});
      const auto wide = ctx.scratch.template tensor<activation<P>>(rows.extent(0), rows.extent(1));
      plain(wide);
      op::transposing_quantizer<activation<P>, Gradient>::both(ctx, {.x = wide,
                                                                     .y = y,
                                                                     .t = t,
                                                                     .scales = recipe.scales,
                                                                     .group = recipe.gradients,
                                                                     .groups = x.groups});
    });
  else
    plain(rows);
}

}  // namespace dsv3::inline DSV3_ABI
