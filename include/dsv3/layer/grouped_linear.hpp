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
  /// What the weights' product reads of x and of dy, which sums over an expert's rows.
  template <class Ctx>
  const_rows columns(Ctx&, const_rows x, const row_groups&, scale_kind) const {
    return x;
  }
  template <class Ctx>
  const_rows gradient_columns(Ctx&, const_rows dy, const row_groups&) const {
    return dy;
  }

 private:
  template <class T>
  static ragged_view<T> ragged(view<T, 2> x, const row_groups& groups) {
    return {x, groups.offsets, groups.counts};
  }
};

/// dy and x come in tiles along their rows. The weight gradient reads them cut anew along their columns.
template <tilewise P>
struct grouped_linear<P> {
  using rows = view<activation<P>, 2>;
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
  void backward_data(Ctx& ctx, input dy, weights w, const row_groups& groups, rows dx) const {
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      op::scaled_grouped_gemm<P, Gradient>::backward_data(
          ctx, {.dy = as_codes<Gradient>(dy), .w = w, .groups = groups, .dx = dx, .product = recipe.product});
    });
  }

  /// Of x, whose scales are of a kind.
  template <execution_context Ctx>
  input columns(Ctx& ctx, input x, const row_groups& groups, scale_kind scales) const {
    return cut_anew<fp8_e4m3>(ctx, x, groups, scales, recipe.inputs);
  }
  /// Of a gradient that came through the exchange.
  template <execution_context Ctx>
  input gradient_columns(Ctx& ctx, input dy, const row_groups& groups) const {
    input dy_t;
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      dy_t = cut_anew<Gradient>(ctx, dy, groups, recipe.exchanged_scales, recipe.gradients);
    });
    return dy_t;
  }
  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, input dy_t, input x_t, const row_groups& groups, view<gradient<P>, 3> dw,
                        store into) const {
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      op::scaled_grouped_gemm<P, Gradient>::backward_weights(ctx, {.dy_t = as_codes<Gradient>(dy_t),
                                                                   .x_t = x_t,
                                                                   .groups = groups,
                                                                   .dw = dw,
                                                                   .into = into,
                                                                   .product = recipe.product});
    });
  }

 private:
  template <class Element, class Ctx>
  static input cut_anew(Ctx& ctx, input x, const row_groups& groups, scale_kind scales, scale_group group) {
    const index_t rows = x.extent(0);
    const auto t = scratch_tiles<fp8_e4m3>(ctx, x.extent(1), rows, groups.tiles(rows));
    op::transposing_quantizer<activation<P>, Element>::retile(ctx, {.y = as_codes<Element>(x),
                                                                    .t = as_codes<Element>(t),
                                                                    .scales = scales,
                                                                    .group = group,
                                                                    .groups = groups});
    return t;
  }
};

}  // namespace dsv3::inline DSV3_ABI
