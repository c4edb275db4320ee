// SPDX-License-Identifier: MIT
// The experts' linear layers: one product per expert in the precision's operand format.
#pragma once

#include <dsv3/layer/linear.hpp>
#include <dsv3/op/linear/grouped_gemm.hpp>
#include <dsv3/op/linear/scaled_grouped_gemm.hpp>

namespace dsv3::inline DSV3_ABI {

/// linear over the live rows of every group:
///   y_e [rows, out] = x_e [rows, in] · w_e [out, in]ᵀ
template <precision P>
struct grouped_linear {
  using rows = view<activation<P>, 2>;
  using const_rows = view<const activation<P>, 2>;
  using weights = view<const weight<P>, 3>;

  constexpr explicit grouped_linear(const fp8_recipe&) {}

  template <execution_context Ctx>
  void forward(Ctx& ctx, const_rows x, weights w, const row_groups& groups, rows y) const {
    op::grouped_gemm<P>::forward(ctx, {.x = ragged(x, groups), .w = w, .y = ragged(y, groups)});
  }
  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const_rows dy, weights w, const row_groups& groups, rows dx) const {
    op::grouped_gemm<P>::backward_data(ctx, {.dy = ragged(dy, groups), .w = w, .dx = ragged(dx, groups)});
  }
  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, const_rows dy, const_rows x, const row_groups& groups,
                        view<gradient<P>, 3> dw, store into) const {
    op::grouped_gemm<P>::backward_weights(
        ctx, {.dy = ragged(dy, groups), .x = ragged(x, groups), .dw = dw, .into = into});
  }
  /// The two for a gradient that came through the exchange.
  template <execution_context Ctx>
  void exchanged_data(Ctx& ctx, const_rows dy, weights w, const row_groups& groups, rows dx) const {
    backward_data(ctx, dy, w, groups, dx);
  }
  template <execution_context Ctx>
  void exchanged_weights(Ctx& ctx, const_rows dy, const_rows x, const row_groups& groups,
                         view<gradient<P>, 3> dw, store into) const {
    backward_weights(ctx, dy, x, groups, dw, into);
  }

 private:
  template <class T>
  static ragged_view<T> ragged(view<T, 2> x, const row_groups& groups) {
    return {x, groups.offsets, groups.counts};
  }
};

/// What came through the exchange came in 8 bits with the exchange's scales: its rows in tiles are what the
/// weight gradient cuts anew, too.
template <tilewise P>
struct grouped_linear<P> {
  using rows = view<activation<P>, 2>;
  using const_rows = view<const activation<P>, 2>;
  using weights = scaled_view<const fp8_e4m3, block_tile, 3>;
  using input = scaled_view<const fp8_e4m3, row_tile>;

  fp8_recipe recipe;

  constexpr explicit grouped_linear(const fp8_recipe& choices) : recipe(choices) {}

  template <execution_context Ctx>
  void forward(Ctx& ctx, input x, weights w, const row_groups& groups, rows y) const {
    op::scaled_grouped_gemm<P>::forward(
        ctx, {.x = x, .w = w, .groups = groups, .y = y, .product = recipe.product});
  }
  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const_rows dy, weights w, const row_groups& groups, rows dx) const {
    data(ctx, dy, w, groups, dx, recipe.scales);
  }
  template <execution_context Ctx>
  void exchanged_data(Ctx& ctx, const_rows dy, weights w, const row_groups& groups, rows dx) const {
    data(ctx, dy, w, groups, dx, recipe.exchanged_scales);
  }
  /// x is the gated activation, made on the spot.
  template <execution_context Ctx>
  void exchanged_weights(Ctx& ctx, const_rows dy, input x, const row_groups& groups, view<gradient<P>, 3> dw,
                         store into) const {
    const scratch_frame frame{ctx.scratch};
    const auto x_t = cut_anew(ctx, x, groups, recipe.scales, recipe.inputs);
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      const auto tiles = in_rows<Gradient>(ctx, dy, groups, recipe.exchanged_scales);
      product<Gradient>(ctx, cut_anew(ctx, tiles, groups, recipe.exchanged_scales, recipe.gradients), x_t,
                        groups, dw, into);
    });
  }
  /// x came through the exchange.
  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, const_rows dy, input x, const row_groups& groups, view<gradient<P>, 3> dw,
                        store into) const {
    const scratch_frame frame{ctx.scratch};
    const auto x_t = cut_anew(ctx, x, groups, recipe.exchanged_scales, recipe.inputs);
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      const auto dy_t = columns_of<Gradient>(ctx, dy.extent(0), dy.extent(1), groups);
      op::transposing_quantizer<activation<P>, Gradient>::forward(
          ctx, {.x = dy, .t = dy_t, .scales = recipe.scales, .group = recipe.gradients, .groups = groups});
      product<Gradient>(ctx, dy_t, x_t, groups, dw, into);
    });
  }

 private:
  template <class Gradient, class Ctx>
  scaled_view<Gradient, row_tile> in_rows(Ctx& ctx, const_rows dy, const row_groups& groups,
                                          scale_kind scales) const {
    const auto tiles = scratch_tiles<Gradient>(ctx, dy.extent(0), dy.extent(1));
    op::tile_quantizer<activation<P>, Gradient, row_tile>::forward(
        ctx, {.x = dy, .y = tiles, .scales = scales, .group = recipe.gradients, .groups = groups});
    return tiles;
  }
  template <class Element, class Ctx>
  static scaled_view<Element, row_tile> columns_of(Ctx& ctx, index_t rows, index_t columns,
                                                   const row_groups& groups) {
    return scratch_tiles<Element>(ctx, columns, rows, groups.tiles(rows));
  }
  template <class Element, class Ctx>
  static auto cut_anew(Ctx& ctx, const scaled_view<Element, row_tile>& x, const row_groups& groups,
                       scale_kind scales, scale_group group) {
    using element = std::remove_const_t<Element>;
    const auto t = columns_of<element>(ctx, x.extent(0), x.extent(1), groups);
    op::transposing_quantizer<activation<P>, element>::retile(
        ctx, {.y = x, .t = t, .scales = scales, .group = group, .groups = groups});
    return t;
  }
  template <class Ctx>
  void data(Ctx& ctx, const_rows dy, weights w, const row_groups& groups, rows dx, scale_kind scales) const {
    const scratch_frame frame{ctx.scratch};
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      op::scaled_grouped_gemm<P, Gradient>::backward_data(ctx,
                                                          {.dy = in_rows<Gradient>(ctx, dy, groups, scales),
                                                           .w = w,
                                                           .groups = groups,
                                                           .dx = dx,
                                                           .product = recipe.product});
    });
  }
  template <class Gradient, class Ctx>
  void product(Ctx& ctx, scaled_view<const Gradient, row_tile> dy_t, input x_t, const row_groups& groups,
               view<gradient<P>, 3> dw, store into) const {
    op::scaled_grouped_gemm<P, Gradient>::backward_weights(
        ctx, {.dy_t = dy_t, .x_t = x_t, .groups = groups, .dw = dw, .into = into, .product = recipe.product});
  }
};

}  // namespace dsv3::inline DSV3_ABI
