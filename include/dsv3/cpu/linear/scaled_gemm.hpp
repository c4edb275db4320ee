// SPDX-License-Identifier: MIT
// The linear layer's products over scaled tiles on the CPU.
#pragma once

#include <dsv3/cpu/linear/scaled_tile.hpp>
#include <dsv3/op/linear/scaled_gemm.hpp>

namespace dsv3::inline DSV3_ABI {

template <class P, class Gradient>
struct implementation<op::scaled_gemm<P, Gradient>, backend::cpu> {
  using forward_args = typename op::scaled_gemm<P, Gradient>::forward_args;
  using backward_data_args = typename op::scaled_gemm<P, Gradient>::backward_data_args;
  using backward_weights_args = typename op::scaled_gemm<P, Gradient>::backward_weights_args;

  template <class Ctx, class Args>
  static float* scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    const auto p = product_of(args);
    return tiles_of<decltype(p)>::panels(arena, ctx.threads, {p.m(), p.n(), p.k()});
  }

  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    const auto p = product_of(args);
    const auto only = [&](index_t) { return p; };
    tiles_of<decltype(p)>::run(ctx.threads, 1, {p.m(), p.n(), p.k()}, only, scratch(ctx, ctx.scratch, args));
  }

 private:
  using rows = scaled<fp8_e4m3, row_tile>;
  using delta = scaled<Gradient, row_tile>;
  using weights = scaled<fp8_e4m3, block_tile>;
  template <class Product>
  using tiles_of =
      cpu::tiles<float, std::remove_const_t<Product>, cpu::scaled_tile<std::remove_const_t<Product>>>;

  // y = x · wᵀ
  static auto product_of(const forward_args& args) {
    return cpu::scaled_product<rows, weights, activation<P>>{
        {cpu::transpose::no, args.x, cpu::transpose::yes, args.w, args.y, args.into}, args.product};
  }
  // dx = dy · w
  static auto product_of(const backward_data_args& args) {
    return cpu::scaled_product<delta, weights, activation<P>>{
        {cpu::transpose::no, args.dy, cpu::transpose::no, args.w, args.dx, args.into}, args.product};
  }
  // dw += (dyᵀ) · (xᵀ)ᵀ
  static auto product_of(const backward_weights_args& args) {
    return cpu::scaled_product<delta, rows, gradient<P>>{
        {cpu::transpose::no, args.dy_t, cpu::transpose::yes, args.x_t, args.dw, args.into}, args.product};
  }
};

}  // namespace dsv3::inline DSV3_ABI
