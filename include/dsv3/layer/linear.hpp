// SPDX-License-Identifier: MIT
// A linear layer: one weight, one product in the precision's operand format, and its two gradients.
#pragma once

#include <dsv3/layer/operand.hpp>
#include <dsv3/op/linear/gemm.hpp>
#include <dsv3/op/linear/scaled_gemm.hpp>
#include <dsv3/op/norm/rms_norm.hpp>
#include <dsv3/op/quant/rms_norm_quantizer.hpp>
#include <dsv3/op/quant/transposing_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

struct kept_columns_config {
  index_t tokens = 0, width = 0;
};

/// The gradient of a product's output from the data half of backward to its weight half, a bundle: cut along
/// the columns as the weights' product reads it, or nothing where that reads it as it is.
template <precision P>
struct kept_columns {
  kept_columns_config config;

  template <class Visit, class... Self>
  static void each_field(const kept_columns_config&, Visit&&, Self&...) {}
};
template <tilewise P>
struct kept_columns<P> {
  kept_columns_config config;
  view<fp8_e4m3, 2> codes;  // [width, tokens], in the recipe's format of gradients
  view<float, 2> scales;    // [tiles, width]

  template <class Visit, class... Self>
  static void each_field(const kept_columns_config& c, Visit&& visit, Self&... self) {
    visit("codes", c.width > 0 ? shape{c.width, c.tokens} : shape{}, self.codes...);
    visit("scales", c.width > 0 ? shape{ceil_div(c.tokens, 128), c.width} : shape{}, self.scales...);
  }
  scaled_view<fp8_e4m3, row_tile> tiles() const {
    return {codes,
            scaled_view<fp8_e4m3, row_tile>::scales_at(scales.data(), {scales.extent(1), scales.extent(0)})};
  }
};

/// Layers call their products here: the one place that knows how a precision multiplies.
///   y [tokens, out] = x [tokens, in] · w [out, in]ᵀ
/// forward takes its input as the product reads it; `operand` and `normalized` make it, in scratch of the
/// caller's frame. The recipe is for precisions with narrow operands only.
template <precision P>
struct linear {
  using rows = view<activation<P>, 2>;
  using const_rows = view<const activation<P>, 2>;
  using weights = view<const weight<P>, 2>;

  constexpr explicit linear(const fp8_recipe&) {}

  template <class Ctx>
  const_rows operand(Ctx&, const_rows x, scale_kind) const {
    return x;
  }
  template <class Ctx>
  const_rows operand(Ctx&, const_rows x) const {
    return x;
  }
  /// RMSNorm and its output as an operand.
  template <execution_context Ctx>
  const_rows normalized(Ctx& ctx, const typename op::rms_norm<P>::forward_args& args) const {
    op::rms_norm<P>::forward(ctx, args);
    return args.y;
  }
  /// The weight as plain numbers.
  template <class Ctx>
  weights plain(Ctx&, weights w) const {
    return w;
  }

  template <execution_context Ctx>
  void forward(Ctx& ctx, const_rows x, weights w, rows y) const {
    op::gemm<P>::forward(ctx, {.x = x, .w = w, .y = y});
  }
  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const_rows dy, weights w, rows dx, store into = store::write) const {
    op::gemm<P>::backward_data(ctx, {.dy = dy, .w = w, .dx = dx, .into = into});
  }
  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, const_rows dy, const_rows x, view<gradient<P>, 2> dw, store into) const {
    op::gemm<P>::backward_weights(ctx, {.dy = dy, .x = x, .dw = dw, .into = into});
  }
  /// What the weights' product reads of x and of dy, which sums over tokens.
  template <class Ctx>
  const_rows columns(Ctx&, const_rows x) const {
    return x;
  }

  /// The data half of a layer that leaves dy for the weight half, and how that finds it again.
  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const_rows dy, weights w, rows dx, store into, const kept_columns<P>&) const {
    backward_data(ctx, dy, w, dx, into);
  }
  static const_rows columns_of(const_rows dy, const kept_columns<P>&) { return dy; }
  /// The same where x is not an operand but the activation.
  template <execution_context Ctx>
  void backward_weights_plain(Ctx& ctx, const_rows dy, const_rows x, view<gradient<P>, 2> dw,
                              store into) const {
    backward_weights(ctx, dy, x, dw, into);
  }
};

/// x and dy are quantised for every product that reads them: x row by row, dy row by row and, for the weight
/// gradient, transposed (report, section 3.3; figure 6).
template <tilewise P>
struct linear<P> {
  using rows = view<activation<P>, 2>;
  using const_rows = view<const activation<P>, 2>;
  using weights = scaled_view<const fp8_e4m3, block_tile>;
  using input = scaled_view<const fp8_e4m3, row_tile>;

  fp8_recipe recipe;

  constexpr explicit linear(const fp8_recipe& choices) : recipe(choices) {}

  template <execution_context Ctx>
  input operand(Ctx& ctx, const_rows x, scale_kind scales) const {
    const auto y = scratch_tiles<fp8_e4m3>(ctx, x.extent(0), x.extent(1));
    op::tile_quantizer<activation<P>, fp8_e4m3, row_tile>::forward(
        ctx, {.x = x, .y = y, .scales = scales, .group = recipe.inputs});
    return y;
  }
  template <execution_context Ctx>
  input operand(Ctx& ctx, const_rows x) const {
    return operand(ctx, x, recipe.scales);
  }
  template <execution_context Ctx>
  input normalized(Ctx& ctx, const typename op::rms_norm<P>::forward_args& args) const {
    if (recipe.inputs != scale_group::tile) {
      op::rms_norm<P>::forward(ctx, args);
      return operand(ctx, args.y);
    }
    const auto y = scratch_tiles<fp8_e4m3>(ctx, args.x.extent(0), args.x.extent(1));
    op::rms_norm_quantizer<P>::forward(ctx, {.plain = args, .y = y, .scales = recipe.scales});
    return y;
  }
  template <execution_context Ctx>
  view<const activation<P>, 2> plain(Ctx& ctx, weights w) const {
    const auto y = ctx.scratch.template tensor<activation<P>>(w.extent(0), w.extent(1));
    op::tile_quantizer<activation<P>, fp8_e4m3, block_tile>::dequantize(ctx, {.x = w, .y = y});
    return y;
  }

  template <execution_context Ctx>
  void forward(Ctx& ctx, input x, weights w, rows y) const {
    op::scaled_gemm<P>::forward(ctx, {.x = x, .w = w, .y = y, .product = recipe.product});
  }
  /// dy is read once, for this product and for that of the weights.
  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const_rows dy, weights w, rows dx, store into,
                     const kept_columns<P>& kept) const {
    const scratch_frame frame{ctx.scratch};
    const auto tiles = scratch_tiles<fp8_e4m3>(ctx, dy.extent(0), dy.extent(1));
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      op::transposing_quantizer<activation<P>, Gradient>::both(ctx, {.x = dy,
                                                                     .y = as_codes<Gradient>(tiles),
                                                                     .t = as_codes<Gradient>(kept.tiles()),
                                                                     .scales = recipe.scales,
                                                                     .group = recipe.gradients});
    });
    backward_data(ctx, input(tiles), w, dx, into);
  }
  static input columns_of(const_rows, const kept_columns<P>& kept) { return kept.tiles(); }
  /// The same where dy is quantised already.
  template <execution_context Ctx>
  void backward_data(Ctx& ctx, input dy, weights w, rows dx, store into = store::write) const {
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      op::scaled_gemm<P, Gradient>::backward_data(
          ctx, {.dy = as_codes<Gradient>(dy), .w = w, .dx = dx, .into = into, .product = recipe.product});
    });
  }

  /// x in tiles along its rows is cut anew into tiles along its columns.
  template <execution_context Ctx>
  input columns(Ctx& ctx, input x) const {
    const auto x_t = scratch_tiles<fp8_e4m3>(ctx, x.extent(1), x.extent(0));
    op::transposing_quantizer<activation<P>, fp8_e4m3>::retile(
        ctx, {.y = x, .t = x_t, .scales = recipe.scales, .group = recipe.inputs});
    return x_t;
  }
  /// dy and x in tiles along their columns.
  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, input dy_t, input x_t, view<gradient<P>, 2> dw, store into) const {
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      op::scaled_gemm<P, Gradient>::backward_weights(
          ctx,
          {.dy_t = as_codes<Gradient>(dy_t), .x_t = x_t, .dw = dw, .into = into, .product = recipe.product});
    });
  }
  /// For the attention's output, which is kept in E5M6 and powers of two.
  template <execution_context Ctx>
  void backward_weights_plain(Ctx& ctx, input dy_t, const_rows x, view<gradient<P>, 2> dw, store into) const {
    const scratch_frame frame{ctx.scratch};
    const auto x_t = scratch_tiles<fp8_e4m3>(ctx, x.extent(1), x.extent(0));
    op::transposing_quantizer<activation<P>, fp8_e4m3>::forward(
        ctx, {.x = x, .t = x_t, .scales = recipe.exchanged_scales, .group = recipe.inputs});
    backward_weights(ctx, dy_t, x_t, dw, into);
  }
};

}  // namespace dsv3::inline DSV3_ABI
