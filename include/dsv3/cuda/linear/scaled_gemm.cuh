// SPDX-License-Identifier: MIT
// The linear layer's products over scaled tiles on the GPU.
#pragma once

#include <dsv3/cuda/linear/scaled/limited_product.cuh>
#include <dsv3/cuda/linear/scaled/product.cuh>
#include <dsv3/exec/dispatch.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

/// Adds up as the options say.
template <grouped_by By, sum_runs Runs, class A, class C>
void run_scaled_product(const char* name, cudaStream_t stream, const scaled_problem<A, C>& p,
                        const scaled_product_options& options) {
  if (options.accumulator == accumulator_model::fp32)
    launch_scaled_product<By, Runs>(name, stream, p);
  else
    launch_limited_product<By, Runs>(name, stream, p);
}

}  // namespace cuda::detail

template <class P, class Gradient>
struct implementation<op::scaled_gemm<P, Gradient>, backend::cuda> {
  using op_type = op::scaled_gemm<P, Gradient>;

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
