// SPDX-License-Identifier: MIT
// The linear layer's products on the CPU.
#pragma once

#include <dsv3/cpu/linear/rowwise.hpp>
#include <dsv3/cpu/linear/tiles.hpp>
#include <dsv3/op/linear/gemm.hpp>

namespace dsv3::inline DSV3_ABI {

/// Forward gives a token the same bits whichever others come with it, as long as there are at most
/// cpu::few_rows.
template <class P, class Output>
struct implementation<op::gemm<P, Output>, backend::cpu> {
  using forward_args = typename op::gemm<P, Output>::forward_args;
  using backward_data_args = typename op::gemm<P, Output>::backward_data_args;
  using backward_weights_args = typename op::gemm<P, Output>::backward_weights_args;

  template <class Ctx, class Args>
  static accumulator<P>* scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    const auto p = product_of(args);
    if (row_by_row(args)) return rowwise_of<decltype(p)>::panels(arena, ctx.threads, p.k());
    return tiles_of<decltype(p)>::panels(arena, ctx.threads, {p.m(), p.n(), p.k()});
  }

  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    const auto p = product_of(args);
    const auto only = [&](index_t) { return p; };
    accumulator<P>* panels = scratch(ctx, ctx.scratch, args);
    if (row_by_row(args))
      rowwise_of<decltype(p)>::run(ctx.threads, 1, only, panels);
    else
      tiles_of<decltype(p)>::run(ctx.threads, 1, {p.m(), p.n(), p.k()}, only, panels);
  }

 private:
  template <class Product>
  using tiles_of = cpu::tiles<accumulator<P>, std::remove_const_t<Product>>;
  template <class Product>
  using rowwise_of = cpu::rowwise<accumulator<P>, std::remove_const_t<Product>>;

  // Forward of as many tokens as decoding has at once; every other product is cut into tiles.
  template <class Args>
  static bool row_by_row(const Args& args) {
    return std::is_same_v<Args, forward_args> &&
           rowwise_of<decltype(product_of(args))>::takes(product_of(args));
  }

  // y = x · wᵀ
  static auto product_of(const forward_args& args) {
    return cpu::tiled_product<activation<P>, weight<P>, Output>{
        cpu::transpose::no, args.x, cpu::transpose::yes, args.w, args.y, args.into};
  }
  // dx = dy · w
  static auto product_of(const backward_data_args& args) {
    return cpu::tiled_product<Output, weight<P>, activation<P>>{
        cpu::transpose::no, args.dy, cpu::transpose::no, args.w, args.dx, args.into};
  }
  // dw += dyᵀ · x
  static auto product_of(const backward_weights_args& args) {
    return cpu::tiled_product<Output, activation<P>, gradient<P>>{
        cpu::transpose::yes, args.dy, cpu::transpose::no, args.x, args.dw, args.into};
  }
};

}  // namespace dsv3::inline DSV3_ABI
