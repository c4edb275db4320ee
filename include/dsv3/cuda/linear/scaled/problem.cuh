// SPDX-License-Identifier: MIT
// Products over scaled tiles as kernels see them: dense ones, one per group of rows, one per group of terms.
#pragma once

#include <dsv3/number/fp8_recipe.hpp>
#include <dsv3/op/linear/scaled_grouped_gemm.hpp>

namespace dsv3::inline DSV3_ABI::cuda::detail {

/// The scales of an operand: those of its rows, or of blocks of 128 of them, by tiles along the sum.
struct tile_scales {
  const float* data;
  index_t row_stride, tile_stride;
  int shift;  // 0: a row has its own; 7: 128 share one

  __device__ const float* of(index_t row) const { return data + (row >> shift) * row_stride; }
};

/// Of an operand whose sums run along its columns.
template <class Element, class Tile, int Rank>
tile_scales scales_along(const scaled_view<Element, Tile, Rank>& x) {
  return {x.scales.data(), x.scales.stride(Rank - 2), x.scales.stride(Rank - 1), Tile::rows == 1 ? 0 : 7};
}
/// Of one whose sums run down its rows.
template <class Element, class Tile, int Rank>
tile_scales scales_across(const scaled_view<Element, Tile, Rank>& x) {
  static_assert(Tile::rows == 128 && Tile::columns == 128);
  return {x.scales.data(), x.scales.stride(Rank - 1), x.scales.stride(Rank - 2), 7};
}

/// What groups divide: the rows of a and c, each with its own b; or the terms of the sums, each with its own
/// c.
enum class grouped_by { rows, terms };

/// How b lies: [n, k], neighbours follow the sum; or [k, n].
enum class sum_runs { along, across };

/// c[m, n] = a[m, k] · b, or += ; of all groups together, or of one.
template <class A, class C>
struct scaled_problem {
  const A* a;
  const fp8_e4m3* b;
  C* c;
  index_t m, n, k;
  index_t a_stride, b_stride, c_stride;   // from row to row
  index_t b_step, b_scales_step, c_step;  // from one group's matrix to the next
  tile_scales a_scales, b_scales;
  row_groups groups;
  store into;
  index_t promotion;

  /// What one group contributes.
  template <grouped_by By>
  __device__ scaled_problem group(index_t g) const {
    scaled_problem one = *this;
    const index_t first = groups.first(g);
    if constexpr (By == grouped_by::rows) {
      one.m = groups.count(g, m);
      one.a += first * a_stride, one.c += first * c_stride;
      one.a_scales.data += first * a_scales.row_stride;
      one.b += g * b_step, one.b_scales.data += g * b_scales_step;
    } else {
      const index_t tile = groups.first_tile(g);
      one.k = groups.count(g, k);
      one.a += first, one.b += first, one.c += g * c_step;
      one.a_scales.data += tile * a_scales.tile_stride;
      one.b_scales.data += tile * b_scales.tile_stride;
    }
    return one;
  }
};

// ---- the records as problems

/// One weight seen as a stack of one.
inline scaled_view<const fp8_e4m3, block_tile, 3> stacked(const scaled_view<const fp8_e4m3, block_tile>& w) {
  const index_t extents[] = {1, w.extent(0), w.extent(1)},
                strides[] = {w.extent(0) * w.values.stride(0), w.values.stride(0), 1},
                scale_extents[] = {1, w.scales.extent(0), w.scales.extent(1)},
                scale_strides[] = {0, w.scales.stride(0), w.scales.stride(1)};
  return {{w.values.data(), extents, strides}, {w.scales.data(), scale_extents, scale_strides}};
}
inline const scaled_view<const fp8_e4m3, block_tile, 3>& stacked(
    const scaled_view<const fp8_e4m3, block_tile, 3>& w) {
  return w;
}

/// y = x · wᵀ, or dx = dy · w: a product of rows by weights.
template <sum_runs Runs, class A, class Weights, class C>
scaled_problem<A, C> rows_by_weights(const scaled_view<const A, row_tile>& rows, const Weights& weights,
                                     const view<C, 2>& to, const row_groups& groups, store into,
                                     const scaled_product_options& options) {
  const auto w = stacked(weights);
  return {.a = rows.values.data(),
          .b = w.values.data(),
          .c = to.data(),
          .m = to.extent(0),
          .n = to.extent(1),
          .k = rows.extent(1),
          .a_stride = rows.values.stride(0),
          .b_stride = w.values.stride(1),
          .c_stride = to.stride(0),
          .b_step = w.values.stride(0),
          .b_scales_step = w.scales.stride(0),
          .c_step = 0,
          .a_scales = scales_along(rows),
          .b_scales = Runs == sum_runs::along ? scales_along(w) : scales_across(w),
          .groups = groups,
          .into = into,
          .promotion = options.promotion};
}

/// dw += (dyᵀ) · (xᵀ)ᵀ, of each group's tokens.
template <class A, class C>
scaled_problem<A, C> terms_by_terms(const scaled_view<const A, row_tile>& dy_t,
                                    const scaled_view<const fp8_e4m3, row_tile>& x_t, C* dw, index_t stride,
                                    index_t step, const row_groups& groups, store into,
                                    const scaled_product_options& options) {
  return {.a = dy_t.values.data(),
          .b = x_t.values.data(),
          .c = dw,
          .m = dy_t.extent(0),
          .n = x_t.extent(0),
          .k = dy_t.extent(1),
          .a_stride = dy_t.values.stride(0),
          .b_stride = x_t.values.stride(0),
          .c_stride = stride,
          .b_step = 0,
          .b_scales_step = 0,
          .c_step = step,
          .a_scales = scales_along(dy_t),
          .b_scales = scales_along(x_t),
          .groups = groups,
          .into = into,
          .promotion = options.promotion};
}

template <class P, class G>
auto problem_of(const typename op::scaled_gemm<P, G>::forward_args& args) {
  return rows_by_weights<sum_runs::along>(args.x, args.w, args.y, {}, args.into, args.product);
}
template <class P, class G>
auto problem_of(const typename op::scaled_gemm<P, G>::backward_data_args& args) {
  return rows_by_weights<sum_runs::across>(args.dy, args.w, args.dx, {}, args.into, args.product);
}
template <class P, class G>
auto problem_of(const typename op::scaled_gemm<P, G>::backward_weights_args& args) {
  return terms_by_terms(args.dy_t, args.x_t, args.dw.data(), args.dw.stride(0), 0, {}, args.into,
                        args.product);
}
template <class P, class G>
auto problem_of(const typename op::scaled_grouped_gemm<P, G>::forward_args& args) {
  return rows_by_weights<sum_runs::along>(args.x, args.w, args.y, args.groups, store::write, args.product);
}
template <class P, class G>
auto problem_of(const typename op::scaled_grouped_gemm<P, G>::backward_data_args& args) {
  return rows_by_weights<sum_runs::across>(args.dy, args.w, args.dx, args.groups, store::write, args.product);
}
template <class P, class G>
auto problem_of(const typename op::scaled_grouped_gemm<P, G>::backward_weights_args& args) {
  return terms_by_terms(args.dy_t, args.x_t, args.dw.data(), args.dw.stride(1), args.dw.stride(0),
                        args.groups, args.into, args.product);
}

/// The tiles of `rows` rows that a problem can have at most down c.
template <grouped_by By, class A, class C>
index_t most_row_tiles(const scaled_problem<A, C>& p, index_t rows) {
  return By == grouped_by::terms || p.groups.all() ? ceil_div(p.m, rows) : p.m / rows + p.groups.groups();
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
