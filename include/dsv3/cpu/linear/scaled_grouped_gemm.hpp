// SPDX-License-Identifier: MIT
// The experts' products over scaled tiles on the CPU: all experts' tiles in one queue.
#pragma once

#include <dsv3/cpu/linear/scaled_tile.hpp>
#include <dsv3/op/linear/scaled_grouped_gemm.hpp>

#include <utility>

namespace dsv3::inline DSV3_ABI {

template <class P, class Gradient>
struct implementation<op::scaled_grouped_gemm<P, Gradient>, backend::cpu> {
  using forward_args = typename op::scaled_grouped_gemm<P, Gradient>::forward_args;
  using backward_data_args = typename op::scaled_grouped_gemm<P, Gradient>::backward_data_args;
  using backward_weights_args = typename op::scaled_grouped_gemm<P, Gradient>::backward_weights_args;

  // Counts are data: the panels are those of the largest expert that the extents allow.
  template <class Ctx, class Args>
  static float* scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    return tiles_of<Args>::panels(arena, ctx.threads, most_of(args));
  }

  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    const auto each = [&](index_t expert) { return product_of(args, expert); };
    tiles_of<Args>::run(ctx.threads, args.groups.groups(), most_of(args), each,
                        scratch(ctx, ctx.scratch, args));
  }

 private:
  using rows = scaled<fp8_e4m3, row_tile>;
  using delta = scaled<Gradient, row_tile>;
  using weights = scaled<fp8_e4m3, block_tile>;

  static cpu::product_extents most_of(const forward_args& args) {
    return {args.x.extent(0), args.w.extent(1), args.w.extent(2)};
  }
  static cpu::product_extents most_of(const backward_data_args& args) {
    return {args.dy.extent(0), args.w.extent(2), args.w.extent(1)};
  }
  static cpu::product_extents most_of(const backward_weights_args& args) {
    return {args.dw.extent(1), args.dw.extent(2), args.x_t.extent(1)};
  }

  // The rows of one expert.
  template <class Matrix>
  static Matrix rows_of(const row_groups& groups, index_t e, index_t all, const Matrix& from) {
    const index_t first = groups.first(e);
    return from.slice(0, first, first + groups.count(e, all));
  }
  // The columns of one expert, where tokens are columns and tiles along them are its own.
  template <class Element>
  static cpu::scaled_part<std::remove_const_t<Element>, row_tile> columns_of(
      const row_groups& groups, index_t e, const scaled_view<Element, row_tile>& from) {
    const index_t first = groups.first(e), tile = groups.first_tile(e),
                  count = groups.count(e, from.extent(1));
    return scaled_view<Element, row_tile>{from.values.columns(first, first + count),
                                          from.scales.columns(tile, tile + ceil_div(count, 128))};
  }

  // Y_e = X_e · w_eᵀ
  static auto product_of(const forward_args& args, index_t e) {
    using product = cpu::scaled_product<rows, weights, activation<P>>;
    const index_t all = args.x.extent(0);
    return product{{cpu::transpose::no, rows_of(args.groups, e, all, decltype(product::a){args.x}),
                    cpu::transpose::yes, args.w[e], rows_of(args.groups, e, all, args.y), store::write},
                   args.product};
  }
  // dX_e = dY_e · w_e
  static auto product_of(const backward_data_args& args, index_t e) {
    using product = cpu::scaled_product<delta, weights, activation<P>>;
    const index_t all = args.dy.extent(0);
    return product{{cpu::transpose::no, rows_of(args.groups, e, all, decltype(product::a){args.dy}),
                    cpu::transpose::no, args.w[e], rows_of(args.groups, e, all, args.dx), store::write},
                   args.product};
  }
  // dw_e += (dY_eᵀ) · (X_eᵀ)ᵀ;  an expert without rows has nothing to add
  static auto product_of(const backward_weights_args& args, index_t e) {
    const auto x_t = columns_of(args.groups, e, args.x_t);
    const index_t made = x_t.extent(1) > 0 || args.into == store::write ? args.dw.extent(1) : 0;
    return cpu::scaled_product<delta, rows, gradient<P>>{
        {cpu::transpose::no, columns_of(args.groups, e, args.dy_t).slice(0, 0, made), cpu::transpose::yes,
         x_t, args.dw[e].rows(0, made), args.into},
        args.product};
  }

  template <class Args>
  using product_type = decltype(product_of(std::declval<const Args&>(), index_t{0}));
  template <class Args>
  using tiles_of = cpu::tiles<float, product_type<Args>, cpu::scaled_tile<product_type<Args>>>;
};

}  // namespace dsv3::inline DSV3_ABI
