// SPDX-License-Identifier: MIT
// One product per head on the GPU, all heads in one call.
#pragma once

#include <dsv3/cuda/linear/dense_product.cuh>
#include <dsv3/op/linear/batched_gemm.hpp>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::batched_gemm<P>, backend::cuda> {
  using forward_args = typename op::batched_gemm<P>::forward_args;
  using transposed_args = typename op::batched_gemm<P>::transposed_args;

  template <class Ctx, class Args>
  static void* scratch(const Ctx&, scratch_arena& arena, const Args&) {
    return cuda::detail::library_workspace(arena);
  }

  template <class Args>
  static const char* path(const Args&) {
    return cuda::detail::dense_path<activation<P>, weight<P>, activation<P>>;
  }

  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    constexpr bool turned = std::is_same_v<Args, forward_args>;
    void* work = scratch(ctx, ctx.scratch, args);
    cuda::detail::multiply_dense<accumulator<P>>(
        ctx, Args::name, cuda::detail::dense_operand_of<const activation<P>>(by_head(args.x)),
        cuda::detail::dense_operand_of<const weight<P>>(args.w, turned), by_head(args.y), store::write, work);
  }

 private:
  /// [tokens, heads, columns] seen as [heads, tokens, columns].
  template <class T>
  static view<T, 3> by_head(const view<T, 3>& x) {
    return {x.data(), {x.extent(1), x.extent(0), x.extent(2)}, {x.stride(1), x.stride(0), 1}};
  }
};

}  // namespace dsv3::inline DSV3_ABI
