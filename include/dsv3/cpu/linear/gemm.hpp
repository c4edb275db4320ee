// SPDX-License-Identifier: MIT
// The linear layer's products on the CPU.
#pragma once

#include <dsv3/cpu/linear/tiles.hpp>
#include <dsv3/op/linear/gemm.hpp>

namespace dsv3::inline DSV3_ABI {

template <class P, class Output>
struct implementation<op::gemm<P, Output>, backend::cpu> {
  using forward_args = typename op::gemm<P, Output>::forward_args;
  using backward_data_args = typename op::gemm<P, Output>::backward_data_args;
  using backward_weights_args = typename op::gemm<P, Output>::backward_weights_args;

  template <class Ctx, class Args>
  static accumulator<P>* scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    const auto p = product_of(args);
    return tiles_of<decltype(p)>::panels(arena, ctx.threads, p.m, p.n, p.k);
  }

  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    const auto p = product_of(args);
    accumulator<P>* panels = scratch(ctx, ctx.scratch, args);
    tiles_of<decltype(p)>::run(
        ctx.threads, 1, p.m, p.n, p.k, [&](index_t) { return p; }, panels);
  }

 private:
  template <class Product>
  using tiles_of = cpu::tiles<accumulator<P>, std::remove_const_t<Product>>;

  // y = x · wᵀ
  static auto product_of(const forward_args& args) {
    return cpu::tiled_product<activation<P>, weight<P>, Output>{
        args.x.extent(0),    args.w.extent(0), args.x.extent(1), cpu::transpose::no,
        cpu::transpose::yes, args.x.data(),    args.x.stride(0), args.w.data(),
        args.w.stride(0),    args.y.data(),    args.y.stride(0), args.into};
  }
  // dx = dy · w
  static auto product_of(const backward_data_args& args) {
    return cpu::tiled_product<Output, weight<P>, activation<P>>{
        args.dy.extent(0),  args.w.extent(1), args.w.extent(0),  cpu::transpose::no,
        cpu::transpose::no, args.dy.data(),   args.dy.stride(0), args.w.data(),
        args.w.stride(0),   args.dx.data(),   args.dx.stride(0), args.into};
  }
  // dw += dyᵀ · x
  static auto product_of(const backward_weights_args& args) {
    return cpu::tiled_product<Output, activation<P>, gradient<P>>{
        args.dw.extent(0),  args.dw.extent(1), args.x.extent(0),  cpu::transpose::yes,
        cpu::transpose::no, args.dy.data(),    args.dy.stride(0), args.x.data(),
        args.x.stride(0),   args.dw.data(),    args.dw.stride(0), store::add};
  }
};

}  // namespace dsv3::inline DSV3_ABI
