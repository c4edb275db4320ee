// SPDX-License-Identifier: MIT
// The experts' products on the GPU: tiles of all experts in one grid, found by counts that lie on the GPU.
// Grids are as large as the rows' capacity allows; tiles that no expert has end at once.
#pragma once

#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/linear/group_tiles.cuh>
#include <dsv3/cuda/linear/grouped_tile.cuh>
#include <dsv3/cuda/linear/plain_product.cuh>
#include <dsv3/op/linear/grouped_gemm.hpp>

#include <type_traits>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// Rows of groups times the group's matrix: y = x · wᵀ with w as [n, k], or y = x · w with w as [k, n].
template <class T, class W>
struct grouped_rows {
  group_rows rows, y_rows;
  view<const T, 2> x;
  view<const W, 3> w;
  view<T, 2> y;
};

/// dw = dyᵀ · x, or +=, over the rows of each group.
template <class T, class G>
struct grouped_weights {
  group_rows dy_rows, x_rows;
  view<const T, 2> dy, x;
  view<G, 3> dw;
  store into;
};

// ---- selection --------------------------------------------------------------------------------------------

/// Whether rows can be brought in packs of 16 bytes, as the matrix units' operands are; only bf16 can.
template <class T>
bool mma_takes(const view<const T, 2>& x) {
  return std::is_same_v<T, bf16> && takes_packs<widest<T>>(x.data(), x.stride(0));
}
template <class T>
bool mma_takes(const view<const T, 3>& w) {
  return std::is_same_v<T, bf16> && takes_packs<widest<T>>(w.data(), w.stride(1)) &&
         w.stride(0) % widest<T> == 0;
}

// ---- kernels ----------------------------------------------------------------------------------------------

template <bool TurnedW>
__global__ void __launch_bounds__(mma_threads, 2) grouped_rows_mma_kernel(grouped_rows<bf16, bf16> p) {
  std::byte* room = dynamic_shared();
  const group_tile tile = find_tile<mma_tile>(p.rows, static_cast<int>(blockIdx.x));
  if (tile.group < 0) return;
  const index_t column = static_cast<index_t>(blockIdx.y) * mma_tile;
  const int depth = static_cast<int>(p.x.extent(1));
  const int rows = p.rows.counts[tile.group] - tile.row, columns = static_cast<int>(p.y.extent(1) - column);
  const mma_operand x{.data = p.x[index_t{p.rows.offsets[tile.group]} + tile.row].data(),
                      .stride = p.x.stride(0),
                      .outer = rows,
                      .depth = depth};
  const mma_operand w{.data = p.w[tile.group].data() + column * (TurnedW ? 1 : p.w.stride(1)),
                      .stride = p.w.stride(1),
                      .outer = columns,
                      .depth = depth};
  mma_sums sums;
  multiply_mma<false, TurnedW>(x, w, shared_address(room), sums);
  store_sums<false>(sums, p.y[index_t{p.y_rows.offsets[tile.group]} + tile.row].data() + column,
                    p.y.stride(0), rows, columns);
}

template <class G>
__global__ void __launch_bounds__(mma_threads, 2) grouped_weights_mma_kernel(grouped_weights<bf16, G> p) {
  std::byte* room = dynamic_shared();
  const int group = static_cast<int>(blockIdx.z), depth = p.dy_rows.counts[group];
  if (depth <= 0 && p.into == store::add) return;
  const index_t row = static_cast<index_t>(blockIdx.y) * mma_tile;
  const index_t column = static_cast<index_t>(blockIdx.x) * mma_tile;
  const int rows = static_cast<int>(p.dw.extent(1) - row),
            columns = static_cast<int>(p.dw.extent(2) - column);
  const mma_operand dy{.data = p.dy[p.dy_rows.offsets[group]].data() + row,
                       .stride = p.dy.stride(0),
                       .outer = rows,
                       .depth = depth};
  const mma_operand x{.data = p.x[p.x_rows.offsets[group]].data() + column,
                      .stride = p.x.stride(0),
                      .outer = columns,
                      .depth = depth};
  mma_sums sums;
  multiply_mma<true, true>(dy, x, shared_address(room), sums);
  if (p.into == store::add)
    store_sums<true>(sums, &p.dw(group, row, column), p.dw.stride(1), rows, columns);
  else
    store_sums<false>(sums, &p.dw(group, row, column), p.dw.stride(1), rows, columns);
}

template <class Acc, bool TurnedW, class T, class W>
__global__ void __launch_bounds__(plain_threads, 2) grouped_rows_plain_kernel(grouped_rows<T, W> p) {
  const group_tile tile = find_tile<plain_tile>(p.rows, static_cast<int>(blockIdx.x));
  if (tile.group < 0) return;
  multiply_plain<Acc>(plain_product<T, W, T>{.a = p.x[p.rows.offsets[tile.group]].data(),
                                             .a_i = p.x.stride(0),
                                             .a_l = 1,
                                             .b = p.w[tile.group].data(),
                                             .b_l = TurnedW ? p.w.stride(1) : 1,
                                             .b_j = TurnedW ? 1 : p.w.stride(1),
                                             .d = p.y[p.y_rows.offsets[tile.group]].data(),
                                             .d_i = p.y.stride(0),
                                             .m = p.rows.counts[tile.group],
                                             .n = p.y.extent(1),
                                             .k = p.x.extent(1),
                                             .add = false},
                      tile.row, static_cast<index_t>(blockIdx.y) * plain_tile);
}

template <class Acc, class T, class G>
__global__ void __launch_bounds__(plain_threads, 2) grouped_weights_plain_kernel(grouped_weights<T, G> p) {
  const int group = static_cast<int>(blockIdx.z), depth = p.dy_rows.counts[group];
  if (depth <= 0 && p.into == store::add) return;
  multiply_plain<Acc>(plain_product<T, T, G>{.a = p.dy[p.dy_rows.offsets[group]].data(),
                                             .a_i = 1,
                                             .a_l = p.dy.stride(0),
                                             .b = p.x[p.x_rows.offsets[group]].data(),
                                             .b_l = p.x.stride(0),
                                             .b_j = 1,
                                             .d = p.dw[group].data(),
                                             .d_i = p.dw.stride(1),
                                             .m = p.dw.extent(1),
                                             .n = p.dw.extent(2),
                                             .k = depth,
                                             .add = p.into == store::add},
                      static_cast<index_t>(blockIdx.y) * plain_tile,
                      static_cast<index_t>(blockIdx.x) * plain_tile);
}

// ---- launch -----------------------------------------------------------------------------------------------

template <class Acc, bool TurnedW, class Ctx, class T, class W>
void launch_grouped_rows(Ctx& ctx, const char* name, const grouped_rows<T, W>& p) {
  const auto grid = [&](int tile) {
    return dim3(static_cast<unsigned>(most_tiles(p.x.extent(0), p.rows.groups, tile)),
                static_cast<unsigned>(ceil_div(p.y.extent(1), tile)));
  };
  if constexpr (std::is_same_v<T, bf16> && std::is_same_v<W, bf16>)
    if (mma_takes(p.x) && mma_takes(p.w))
      return launch(name, ctx.stream,
                    {.grid = grid(mma_tile), .block = mma_threads, .shared_bytes = mma_shared_bytes},
                    grouped_rows_mma_kernel<TurnedW>, p);
  launch(name, ctx.stream, {.grid = grid(plain_tile), .block = plain_threads},
         grouped_rows_plain_kernel<Acc, TurnedW, T, W>, p);
}

template <class Acc, class Ctx, class T, class G>
void launch_grouped_weights(Ctx& ctx, const char* name, const grouped_weights<T, G>& p) {
  const auto grid = [&](int tile) {
    return dim3(static_cast<unsigned>(ceil_div(p.dw.extent(2), tile)),
                static_cast<unsigned>(ceil_div(p.dw.extent(1), tile)), static_cast<unsigned>(p.dw.extent(0)));
  };
  if constexpr (std::is_same_v<T, bf16>)
    if (mma_takes(p.dy) && mma_takes(p.x))
      return launch(name, ctx.stream,
                    {.grid = grid(mma_tile), .block = mma_threads, .shared_bytes = mma_shared_bytes},
                    grouped_weights_mma_kernel<G>, p);
  launch(name, ctx.stream, {.grid = grid(plain_tile), .block = plain_threads},
         grouped_weights_plain_kernel<Acc, T, G>, p);
}

}  // namespace cuda::detail

/// bf16 goes to the matrix units where rows start at multiples of 16 bytes; everything else to plain kernels.
template <class P>
struct implementation<op::grouped_gemm<P>, backend::cuda> {
  using forward_args = typename op::grouped_gemm<P>::forward_args;
  using backward_data_args = typename op::grouped_gemm<P>::backward_data_args;
  using backward_weights_args = typename op::grouped_gemm<P>::backward_weights_args;

  // Y_e = X_e · w_eᵀ
  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    cuda::detail::launch_grouped_rows<accumulator<P>, false>(ctx, args.name,
                                                             product_of(args.x, args.w, args.y));
  }
  // dX_e = dY_e · w_e
  template <class Ctx>
  static void run(Ctx& ctx, const backward_data_args& args) {
    cuda::detail::launch_grouped_rows<accumulator<P>, true>(ctx, args.name,
                                                            product_of(args.dy, args.w, args.dx));
  }
  // dw_e = dY_eᵀ · X_e, or +=
  template <class Ctx>
  static void run(Ctx& ctx, const backward_weights_args& args) {
    cuda::detail::launch_grouped_weights<accumulator<P>>(
        ctx, args.name,
        cuda::detail::grouped_weights<activation<P>, gradient<P>>{.dy_rows = cuda::detail::groups_of(args.dy),
                                                                  .x_rows = cuda::detail::groups_of(args.x),
                                                                  .dy = args.dy.rows,
                                                                  .x = args.x.rows,
                                                                  .dw = args.dw,
                                                                  .into = args.into});
  }

 private:
  static cuda::detail::grouped_rows<activation<P>, weight<P>> product_of(
      const ragged_view<const activation<P>>& x, const view<const weight<P>, 3>& w,
      const ragged_view<activation<P>>& y) {
    return {.rows = cuda::detail::groups_of(x),
            .y_rows = cuda::detail::groups_of(y),
            .x = x.rows,
            .w = w,
            .y = y.rows};
  }
};

}  // namespace dsv3::inline DSV3_ABI
