// SPDX-License-Identifier: MIT
// The experts' products over scaled tiles on Hopper's copy and matrix engines: all experts in one persistent
// launch, by counts on the device.
#pragma once

#include <dsv3/cuda/linear/scaled_gemm_sm90.cuh>
#include <dsv3/cuda/linear/scaled_grouped_gemm.cuh>

namespace dsv3::inline DSV3_ABI {

template <class P, class Gradient>
struct implementation<op::scaled_grouped_gemm<P, Gradient>, backend::hopper>
    : implementation<op::scaled_grouped_gemm<P, Gradient>, backend::cuda> {
  using op_type = op::scaled_grouped_gemm<P, Gradient>;
  using parent = implementation<op_type, backend::cuda>;

  template <class Ctx>
  static auto scratch(const Ctx&, scratch_arena& arena, const typename op_type::backward_data_args& args) {
    return cuda::detail::transposed_weights<P>(arena, args);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    if (!cuda::detail::run_forward_on_hopper<P, Gradient>(ctx.stream, args)) parent::run(ctx, args);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_data_args& args) {
    const auto w_t = scratch(ctx, ctx.scratch, args);
    if (!cuda::detail::run_data_on_hopper<P, Gradient>(ctx.stream, args, w_t)) parent::run(ctx, args);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_weights_args& args) {
    if (!cuda::detail::run_weights_on_hopper<P, Gradient>(ctx.stream, args)) parent::run(ctx, args);
  }
};

}  // namespace dsv3::inline DSV3_ABI
