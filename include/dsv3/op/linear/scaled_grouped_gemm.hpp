// SPDX-License-Identifier: MIT
// One product per expert over 8-bit rows in scaled tiles, and its two gradients.
#pragma once

#include <dsv3/op/linear/scaled_gemm.hpp>
#include <dsv3/tensor/ragged.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// scaled_gemm for every expert over its rows: contiguous and masked layouts differ only in the offsets. The
/// weight gradient sums over an expert's tokens (k-grouped): its operands' scales are numbered by
/// row_groups::first_tile. An expert without rows leaves its gradient as it is, or zero where gradients are
/// written; padding is neither read nor written.
template <precision P, class Gradient = fp8_e4m3>
struct scaled_grouped_gemm {
  using input = scaled_view<const fp8_e4m3, row_tile>;
  using delta = scaled_view<const Gradient, row_tile>;
  using weights = scaled_view<const fp8_e4m3, block_tile, 3>;

  struct forward_args {
    static constexpr const char* name = "scaled_grouped_gemm.forward";
    input x;    // [row capacity, in]
    weights w;  // [experts, out, in]
    row_groups groups;
    view<activation<P>, 2> y;  // [row capacity, out]    live rows written
    scaled_product_options product = {};
    status check() const;
    void outputs(auto&& visit) const { visit("y", y); }
  };

  struct backward_data_args {
    static constexpr const char* name = "scaled_grouped_gemm.backward_data";
    delta dy;   // [row capacity, out]
    weights w;  // [experts, out, in]
    row_groups groups;
    view<activation<P>, 2> dx;  // [row capacity, in]     live rows written
    scaled_product_options product = {};
    status check() const;
    void outputs(auto&& visit) const { visit("dx", dx); }
  };

  struct backward_weights_args {
    static constexpr const char* name = "scaled_grouped_gemm.backward_weights";
    delta dy_t;  // [out, row capacity], scales [out, groups.tiles(row capacity)]
    input x_t;   // [in, row capacity], scales [in, groups.tiles(row capacity)]
    row_groups groups;
    view<gradient<P>, 3> dw;  // [experts, out, in]     added to, or written
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

template <precision P, class Gradient>
status scaled_grouped_gemm<P, Gradient>::forward_args::check() const {
  requirements need{name};
  need.equal("w", "experts", w.extent(0), "the groups", groups.groups())
      .equal("w", "columns", w.extent(2), "x", x.extent(1))
      .equal("y", "columns", y.extent(1), "w as rows", w.extent(1))
      .equal("y", "rows", y.extent(0), "x", x.extent(0))
      .present("y", y);
  detail::match_scales(need, "x", x), detail::match_scales(need, "w", w);
  detail::match_product(need, product);
  return need.verdict();
}
template <precision P, class Gradient>
status scaled_grouped_gemm<P, Gradient>::backward_data_args::check() const {
  requirements need{name};
  need.equal("w", "experts", w.extent(0), "the groups", groups.groups())
      .equal("dy", "columns", dy.extent(1), "w as rows", w.extent(1))
      .equal("dx", "columns", dx.extent(1), "w", w.extent(2))
      .equal("dx", "rows", dx.extent(0), "dy", dy.extent(0))
      .present("dx", dx);
  detail::match_scales(need, "dy", dy), detail::match_scales(need, "w", w);
  detail::match_product(need, product);
  return need.verdict();
}
template <precision P, class Gradient>
status scaled_grouped_gemm<P, Gradient>::backward_weights_args::check() const {
  requirements need{name};
  need.equal("dw", "experts", dw.extent(0), "the groups", groups.groups())
      .equal("x_t", "columns", x_t.extent(1), "dy_t", dy_t.extent(1))
      .equal("dw", "rows", dw.extent(1), "dy_t", dy_t.extent(0))
      .equal("dw", "columns", dw.extent(2), "x_t as rows", x_t.extent(0))
      .equal("dy_t as scales", "rows", dy_t.scales.extent(0), "dy_t", dy_t.extent(0))
      .equal("dy_t as scales", "columns", dy_t.scales.extent(1), "the groups as tiles",
             groups.tiles(dy_t.extent(1)))
      .equal("x_t as scales", "rows", x_t.scales.extent(0), "x_t", x_t.extent(0))
      .equal("x_t as scales", "columns", x_t.scales.extent(1), "the groups as tiles",
             groups.tiles(x_t.extent(1)))
      .present("dy_t", dy_t.values)
      .present("dy_t as scales", dy_t.scales)
      .present("x_t", x_t.values)
      .present("x_t as scales", x_t.scales)
      .present("dw", dw);
  detail::match_product(need, product);
  return need.verdict();
}

template <precision P, class Gradient>
template <execution_context Ctx>
void scaled_grouped_gemm<P, Gradient>::forward(Ctx& ctx, const forward_args& args) {
  invoke<scaled_grouped_gemm>(ctx, args);
}
template <precision P, class Gradient>
template <execution_context Ctx>
void scaled_grouped_gemm<P, Gradient>::backward_data(Ctx& ctx, const backward_data_args& args) {
  invoke<scaled_grouped_gemm>(ctx, args);
}
template <precision P, class Gradient>
template <execution_context Ctx>
void scaled_grouped_gemm<P, Gradient>::backward_weights(Ctx& ctx, const backward_weights_args& args) {
  invoke<scaled_grouped_gemm>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
