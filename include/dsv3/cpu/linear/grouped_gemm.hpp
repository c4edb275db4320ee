// SPDX-License-Identifier: MIT
// The experts' products on the CPU: all experts' tiles in one queue, so that threads are busy whether tokens
// spread over many experts or crowd on one.
#pragma once

#include <dsv3/cpu/linear/rowwise.hpp>
#include <dsv3/cpu/linear/tiles.hpp>
#include <dsv3/op/linear/grouped_gemm.hpp>

#include <utility>

namespace dsv3::inline DSV3_ABI {

/// Forward gives a row the same bits whichever others come with it, as long as its expert has at most
/// cpu::few_rows.
template <class P>
struct implementation<op::grouped_gemm<P>, backend::cpu> {
  using forward_args = typename op::grouped_gemm<P>::forward_args;
  using backward_data_args = typename op::grouped_gemm<P>::backward_data_args;
  using backward_weights_args = typename op::grouped_gemm<P>::backward_weights_args;

  struct forward_panels {
    accumulator<P>*tiles, *rowwise;
  };

  // Experts with few rows go row by row, the others in tiles.
  template <class Ctx>
  static forward_panels scratch(const Ctx& ctx, scratch_arena& arena, const forward_args& args) {
    return {.tiles = tiles_of<forward_args>::panels(arena, ctx.threads, most_of(args)),
            .rowwise = rowwise::panels(arena, ctx.threads, args.w.extent(2))};
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const forward_panels panels = scratch(ctx, ctx.scratch, args);
    const auto each = [&](index_t expert) { return product_of(args, expert); };
    const auto in_tiles = [&](index_t expert) {
      const auto p = each(expert);
      return rowwise::takes(p) ? p.part({0, 0}, {0, p.n()}) : p;
    };
    rowwise::run(ctx.threads, experts_of(args), each, panels.rowwise);
    tiles_of<forward_args>::run(ctx.threads, experts_of(args), most_of(args), in_tiles, panels.tiles);
  }

  // Counts are data: the panels are those of the largest expert that the extents allow.
  template <class Ctx, class Args>
  static accumulator<P>* scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    return tiles_of<Args>::panels(arena, ctx.threads, most_of(args));
  }

  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    const auto each = [&](index_t expert) { return product_of(args, expert); };
    tiles_of<Args>::run(ctx.threads, experts_of(args), most_of(args), each, scratch(ctx, ctx.scratch, args));
  }

 private:
  static index_t experts_of(const auto& args) { return args.w.extent(0); }
  static index_t experts_of(const backward_weights_args& args) { return args.dw.extent(0); }

  static cpu::product_extents most_of(const forward_args& args) {
    return {args.x.rows.extent(0), args.w.extent(1), args.w.extent(2)};
  }
  static cpu::product_extents most_of(const backward_data_args& args) {
    return {args.dy.rows.extent(0), args.w.extent(2), args.w.extent(1)};
  }
  static cpu::product_extents most_of(const backward_weights_args& args) {
    return {args.dw.extent(1), args.dw.extent(2), args.x.rows.extent(0)};
  }

  // Y_e = X_e · w_eᵀ
  static auto product_of(const forward_args& args, index_t e) {
    return cpu::tiled_product<activation<P>, weight<P>, activation<P>>{
        cpu::transpose::no, args.x.group(e), cpu::transpose::yes, args.w[e], args.y.group(e), store::write};
  }
  // dX_e = dY_e · w_e
  static auto product_of(const backward_data_args& args, index_t e) {
    return cpu::tiled_product<activation<P>, weight<P>, activation<P>>{
        cpu::transpose::no, args.dy.group(e), cpu::transpose::no, args.w[e], args.dx.group(e), store::write};
  }
  // dw_e += dY_eᵀ · X_e;  an expert without rows has nothing to add
  static auto product_of(const backward_weights_args& args, index_t e) {
    const auto x = args.x.group(e);
    const index_t made = x.extent(0) > 0 || args.into == store::write ? args.dw.extent(1) : 0;
    return cpu::tiled_product<activation<P>, activation<P>, gradient<P>>{
        cpu::transpose::yes,      args.dy.group(e).columns(0, made),
        cpu::transpose::no,       x,
        args.dw[e].rows(0, made), args.into};
  }

  template <class Args>
  using product_type = decltype(product_of(std::declval<const Args&>(), index_t{0}));
  template <class Args>
  using tiles_of = cpu::tiles<accumulator<P>, product_type<Args>>;
  using rowwise = cpu::rowwise<accumulator<P>, product_type<forward_args>>;
};

}  // namespace dsv3::inline DSV3_ABI
