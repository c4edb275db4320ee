// SPDX-License-Identifier: MIT
// The linear layer's products on the GPU.
#pragma once

#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/linear/dense_product.cuh>
#include <dsv3/op/linear/gemm.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// y = x, rounded; y is gapless, the rows of x may lie apart. A block takes a row at a time.
template <int Width, class To, class From>
__global__ void round_rows_kernel(view<const From, 2> x, To* y) {
  const index_t columns = x.extent(1);
  for (index_t row = blockIdx.x; row < x.extent(0); row += gridDim.x) {
    const From* from = x[row].data();
    To* to = y + row * columns;
    for (index_t i = static_cast<index_t>(threadIdx.x) * Width; i < columns; i += blockDim.x * Width) {
      const auto wide = load_pack<Width>(from + i);
      pack<To, Width> narrow;
#pragma unroll
      for (int e = 0; e < Width; ++e) narrow[e] = To(wide[e]);
      store_pack(to + i, narrow);
    }
  }
}

}  // namespace cuda::detail

/// Matrix units multiply two of a kind: where dy is wider than weights and activations, as that of logits is,
/// it is rounded to their type first.
template <class P, class Output>
struct implementation<op::gemm<P, Output>, backend::cuda> {
  using forward_args = typename op::gemm<P, Output>::forward_args;
  using backward_data_args = typename op::gemm<P, Output>::backward_data_args;
  using backward_weights_args = typename op::gemm<P, Output>::backward_weights_args;

  struct workspace {
    void* library;
    activation<P>* dy;  // rounded
  };

  template <class Ctx, class Args>
  static workspace scratch(const Ctx&, scratch_arena& arena, const Args& args) {
    workspace work{.library = cuda::detail::library_workspace(arena), .dy = nullptr};
    if constexpr (rounds_dy && !std::is_same_v<Args, forward_args>)
      work.dy = arena.take<activation<P>>(args.dy.extent(0) * args.dy.extent(1));
    return work;
  }

  static const char* path(const forward_args&) {
    return cuda::detail::dense_path<activation<P>, weight<P>, Output>;
  }
  static const char* path(const backward_data_args&) {
    return cuda::detail::dense_path<factor_type, weight<P>, activation<P>>;
  }
  static const char* path(const backward_weights_args&) {
    return cuda::detail::dense_path<factor_type, activation<P>, gradient<P>>;
  }

  // y = x · wᵀ
  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const workspace work = scratch(ctx, ctx.scratch, args);
    multiply(ctx, forward_args::name, operand(args.x), operand(args.w, true), args.y, args.into, work);
  }
  // dx = dy · w
  template <class Ctx>
  static void run(Ctx& ctx, const backward_data_args& args) {
    const workspace work = scratch(ctx, ctx.scratch, args);
    multiply(ctx, args.name, operand(factor(ctx, args, work)), operand(args.w), args.dx, args.into, work);
  }
  // dw += dyᵀ · x
  template <class Ctx>
  static void run(Ctx& ctx, const backward_weights_args& args) {
    const workspace work = scratch(ctx, ctx.scratch, args);
    multiply(ctx, args.name, operand(factor(ctx, args, work), true), operand(args.x), args.dw, args.into,
             work);
  }

 private:
  static constexpr bool rounds_dy = std::is_same_v<activation<P>, weight<P>> &&
                                    sizeof(Output) > sizeof(activation<P>);
  using factor_type = std::conditional_t<rounds_dy, activation<P>, Output>;  // of dy

  template <class T>
  static auto operand(const view<T, 2>& x, bool turned = false) {
    return cuda::detail::dense_operand_of<T>(x, turned);
  }

  template <class Ctx, class A, class B, class D>
  static void multiply(Ctx& ctx, const char* name, const A& a, const B& b, const view<D, 2>& d, store into,
                       const workspace& work) {
    cuda::detail::multiply_dense<accumulator<P>>(
        ctx, name, a, b, view<D, 3>(d.data(), {1, d.extent(0), d.extent(1)}, {0, d.stride(0), 1}), into,
        work.library);
  }

  /// dy as the product takes it.
  template <class Ctx, class Args>
  static auto factor(Ctx& ctx, const Args& args, const workspace& work) {
    if constexpr (rounds_dy) {
      constexpr int width = 4;
      const index_t rows = args.dy.extent(0), columns = args.dy.extent(1);
      const bool packs = cuda::takes_packs<width>(args.dy.data(), args.dy.stride(0)) && columns % width == 0;
      const cuda::launch_shape shape{.grid = cuda::grid_for(rows, 1)};
      if (packs && columns > 0)
        cuda::launch(args.name, ctx.stream, shape,
                     cuda::detail::round_rows_kernel<width, activation<P>, Output>, args.dy, work.dy);
      else if (columns > 0)
        cuda::launch(args.name, ctx.stream, shape, cuda::detail::round_rows_kernel<1, activation<P>, Output>,
                     args.dy, work.dy);
      return view<const activation<P>, 2>(work.dy, rows, columns);
    } else {
      return args.dy;
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI
