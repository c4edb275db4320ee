// SPDX-License-Identifier: MIT
// The experts' products over scaled tiles on the GPU: all experts in one launch, by counts on the device.
#pragma once

#include <dsv3/cuda/linear/scaled_gemm.cuh>

namespace dsv3::inline DSV3_ABI {

template <class P, class Gradient>
struct implementation<op::scaled_grouped_gemm<P, Gradient>, backend::cuda> {
  using op_type = op::scaled_grouped_gemm<P, Gradient>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    using namespace cuda::detail;
    run_scaled_product<grouped_by::rows, sum_runs::along>(args.name, ctx.stream,
                                                          problem_of<P, Gradient>(args), args.product);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_data_args& args) {
    using namespace cuda::detail;
    run_scaled_product<grouped_by::rows, sum_runs::across>(args.name, ctx.stream,
                                                           problem_of<P, Gradient>(args), args.product);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_weights_args& args) {
    using namespace cuda::detail;
    run_scaled_product<grouped_by::terms, sum_runs::along>(args.name, ctx.stream,
                                                           problem_of<P, Gradient>(args), args.product);
  }
};

}  // namespace dsv3::inline DSV3_ABI
