// SPDX-License-Identifier: MIT
// The experts' products on the CPU: all experts' tiles in one queue, so that threads are busy whether tokens
// spread over many experts or crowd on one.
#pragma once

#include <dsv3/cpu/linear/tiles.hpp>
#include <dsv3/op/linear/grouped_gemm.hpp>

#include <utility>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::grouped_gemm<P>, backend::cpu> {
  using forward_args = typename op::grouped_gemm<P>::forward_args;
  using backward_data_args = typename op::grouped_gemm<P>::backward_data_args;
  using backward_weights_args = typename op::grouped_gemm<P>::backward_weights_args;

  // Counts are data: the panels are those of the largest expert that the extents allow.
  template <class Ctx, class Args>
  static accumulator<P>* scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    const bounds most = bounds_of(args);
    return tiles_of<Args>::panels(arena, ctx.threads, most.m, most.n, most.k);
  }

  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    const bounds most = bounds_of(args);
    accumulator<P>* panels = scratch(ctx, ctx.scratch, args);
    tiles_of<Args>::run(
        ctx.threads, most.experts, most.m, most.n, most.k,
        [&](index_t expert) { return product_of(args, expert); }, panels);
  }

 private:
  struct bounds {
    index_t experts, m, n, k;
  };
  static bounds bounds_of(const forward_args& args) {
    return {args.w.extent(0), args.x.rows.extent(0), args.w.extent(1), args.w.extent(2)};
  }
  static bounds bounds_of(const backward_data_args& args) {
    return {args.w.extent(0), args.dy.rows.extent(0), args.w.extent(2), args.w.extent(1)};
  }
  static bounds bounds_of(const backward_weights_args& args) {
    return {args.dw.extent(0), args.dw.extent(1), args.dw.extent(2), args.x.rows.extent(0)};
  }

  // Y_e = X_e · w_eᵀ
  static auto product_of(const forward_args& args, index_t e) {
    const auto x = args.x.group(e);
    const auto w = args.w[e];
    const auto y = args.y.group(e);
    return cpu::tiled_product<activation<P>, weight<P>, activation<P>>{
        x.extent(0), w.extent(0), w.extent(1), cpu::transpose::no, cpu::transpose::yes, x.data(),
        x.stride(0), w.data(),    w.stride(0), y.data(),           y.stride(0),         store::write};
  }
  // dX_e = dY_e · w_e
  static auto product_of(const backward_data_args& args, index_t e) {
    const auto dy = args.dy.group(e);
    const auto w = args.w[e];
    const auto dx = args.dx.group(e);
    return cpu::tiled_product<activation<P>, weight<P>, activation<P>>{
        dy.extent(0), w.extent(1), w.extent(0), cpu::transpose::no, cpu::transpose::no, dy.data(),
        dy.stride(0), w.data(),    w.stride(0), dx.data(),          dx.stride(0),       store::write};
  }
  // dw_e += dY_eᵀ · X_e;  without rows there is no tile, so the gradient is not touched
  static auto product_of(const backward_weights_args& args, index_t e) {
    const auto dy = args.dy.group(e), x = args.x.group(e);
    const auto dw = args.dw[e];
    const index_t rows = x.extent(0);
    return cpu::tiled_product<activation<P>, activation<P>, gradient<P>>{rows > 0 ? dw.extent(0) : 0,
                                                                         dw.extent(1),
                                                                         rows,
                                                                         cpu::transpose::yes,
                                                                         cpu::transpose::no,
                                                                         dy.data(),
                                                                         dy.stride(0),
                                                                         x.data(),
                                                                         x.stride(0),
                                                                         dw.data(),
                                                                         dw.stride(0),
                                                                         store::add};
  }

  template <class Args>
  using tiles_of = cpu::tiles<accumulator<P>, decltype(product_of(std::declval<const Args&>(), index_t{0}))>;
};

}  // namespace dsv3::inline DSV3_ABI
