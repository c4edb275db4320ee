// SPDX-License-Identifier: MIT
// The linear layer's product and its two gradients over 8-bit operands in scaled tiles.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/fp8_recipe.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/op/linear/store.hpp>
#include <dsv3/tensor/scaled.hpp>

#include <string>

namespace dsv3::inline DSV3_ABI::op {

/// With every operand's value its code times its tile's scale:
///   y = x · wᵀ
/// Backward:  dx = dy · w          dw += (dyᵀ) · (xᵀ)ᵀ
/// A sum over k is a sum over its stretches of 128, whose codes are multiplied first and scaled then (report,
/// section 3.3.2). `product` says what adds them up. Gradient is the 8-bit format of dy.
template <precision P, class Gradient = fp8_e4m3>
struct scaled_gemm {
  using input = scaled_view<const fp8_e4m3, row_tile>;
  using delta = scaled_view<const Gradient, row_tile>;
  using weights = scaled_view<const fp8_e4m3, block_tile>;

  struct forward_args {
    static constexpr const char* name = "scaled_gemm.forward";
    input x;                   // [tokens, in]
    weights w;                 // [out, in]
    view<activation<P>, 2> y;  // [tokens, out]     written, or added to
    store into = store::write;
    scaled_product_options product = {};
    status check() const;
    void outputs(auto&& visit) const { visit("y", y); }
  };

  struct backward_data_args {
    static constexpr const char* name = "scaled_gemm.backward_data";
    delta dy;                   // [tokens, out]
    weights w;                  // [out, in]
    view<activation<P>, 2> dx;  // [tokens, in]      written, or added to
    store into = store::write;
    scaled_product_options product = {};
    status check() const;
    void outputs(auto&& visit) const { visit("dx", dx); }
  };

  struct backward_weights_args {
    static constexpr const char* name = "scaled_gemm.backward_weights";
    delta dy_t;               // [out, tokens]     dyᵀ, from transposing_quantizer
    input x_t;                // [in, tokens]      xᵀ
    view<gradient<P>, 2> dw;  // [out, in]         added to, or written
    store into = store::add;
    scaled_product_options product = {};
    status check() const;
    void outputs(auto&& visit) const { visit("dw", dw); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void backward_data(Ctx&, const backward_data_args&);
  template <execution_context Ctx>
  static void backward_weights(Ctx&, const backward_weights_args&);
};

namespace detail {

/// An operand must have a scale for each of its tiles, and the interval of promotion must be whole tiles.
template <class Element, class Tile, int Rank>
void match_scales(requirements& need, const char* name, const scaled_view<Element, Tile, Rank>& x) {
  const std::string scales = std::string(name) + " as scales", tiles = std::string(name) + " as tiles";
  const shape expected = scaled_view<Element, Tile, Rank>::scale_shape(x.values.extents());
  if constexpr (Rank == 3)
    need.equal(scales.c_str(), "matrices", x.scales.extent(0), tiles.c_str(), expected[0]);
  need.equal(scales.c_str(), "rows", x.scales.extent(Rank - 2), tiles.c_str(), expected[Rank - 2])
      .equal(scales.c_str(), "columns", x.scales.extent(Rank - 1), tiles.c_str(), expected[Rank - 1])
      .present(name, x.values)
      .present(scales.c_str(), x.scales);
}
inline void match_product(requirements& need, const scaled_product_options& product) {
  need.that(product.promotion >= 0 && product.promotion % 128 == 0,
            "the promotion interval must be a multiple of 128, or 0", {{"interval", product.promotion}});
}

}  // namespace detail

template <precision P, class Gradient>
status scaled_gemm<P, Gradient>::forward_args::check() const {
  requirements need{name};
  need.equal("w", "columns", w.extent(1), "x", x.extent(1))
      .equal("y", "tokens", y.extent(0), "x", x.extent(0))
      .equal("y", "columns", y.extent(1), "w as rows", w.extent(0))
      .present("y", y);
  detail::match_scales(need, "x", x), detail::match_scales(need, "w", w);
  detail::match_product(need, product);
  return need.verdict();
}
template <precision P, class Gradient>
status scaled_gemm<P, Gradient>::backward_data_args::check() const {
  requirements need{name};
  need.equal("dy", "columns", dy.extent(1), "w as rows", w.extent(0))
      .equal("dx", "tokens", dx.extent(0), "dy", dy.extent(0))
      .equal("dx", "columns", dx.extent(1), "w", w.extent(1))
      .present("dx", dx);
  detail::match_scales(need, "dy", dy), detail::match_scales(need, "w", w);
  detail::match_product(need, product);
  return need.verdict();
}
template <precision P, class Gradient>
status scaled_gemm<P, Gradient>::backward_weights_args::check() const {
  requirements need{name};
  need.equal("x_t", "columns", x_t.extent(1), "dy_t", dy_t.extent(1))
      .equal("dw", "rows", dw.extent(0), "dy_t", dy_t.extent(0))
      .equal("dw", "columns", dw.extent(1), "x_t as rows", x_t.extent(0))
      .present("dw", dw);
  detail::match_scales(need, "dy_t", dy_t), detail::match_scales(need, "x_t", x_t);
  detail::match_product(need, product);
  return need.verdict();
}

template <precision P, class Gradient>
template <execution_context Ctx>
void scaled_gemm<P, Gradient>::forward(Ctx& ctx, const forward_args& args) {
  invoke<scaled_gemm>(ctx, args);
}
template <precision P, class Gradient>
template <execution_context Ctx>
void scaled_gemm<P, Gradient>::backward_data(Ctx& ctx, const backward_data_args& args) {
  invoke<scaled_gemm>(ctx, args);
}
template <precision P, class Gradient>
template <execution_context Ctx>
void scaled_gemm<P, Gradient>::backward_weights(Ctx& ctx, const backward_weights_args& args) {
  invoke<scaled_gemm>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
