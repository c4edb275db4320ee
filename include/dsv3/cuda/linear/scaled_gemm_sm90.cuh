// SPDX-License-Identifier: MIT
// The linear layer's products over scaled tiles on Hopper's copy and matrix engines.
#pragma once

#include <dsv3/cuda/linear/scaled/product_sm90.cuh>
#include <dsv3/cuda/linear/scaled/transposed_codes.cuh>
#include <dsv3/cuda/linear/scaled_gemm.cuh>
#include <dsv3/exec/scratch.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- selection --------------------------------------------------------------------------------------------

/// The engines want outputs in bf16, or float for weight gradients, sums that are promoted tile by tile, and
/// what takes_hopper and takes_tensor_map ask for: rows of operands at multiples of 16 bytes (of dx = dy · w
/// only dy's), output rows of a multiple of 8 columns. The parent's body makes the others.
template <class C>
bool suits_hopper(const scaled_product_options& options) {
  return (std::is_same_v<C, bf16> || std::is_same_v<C, float>)&&options.accumulator ==
         accumulator_model::fp32;
}

/// A matrix as a stack of one.
template <class Element>
view<const Element, 3> stack_of_one(const view<const Element, 2>& x) {
  const index_t extents[] = {1, x.extent(0), x.extent(1)},
                strides[] = {x.extent(0) * x.stride(0), x.stride(0), 1};
  return {x.data(), extents, strides};
}

/// y = x · wᵀ; false where the engines cannot.
template <class P, class G, class Args>
bool run_forward_on_hopper(cudaStream_t stream, const Args& args) {
  if constexpr (std::is_same_v<activation<P>, bf16>)
    return suits_hopper<bf16>(args.product) &&
           run_scaled_hopper<grouped_by::rows>(args.name, stream, problem_of<P, G>(args), args.x.values,
                                               stacked(args.w).values);
  return false;
}

/// Room for wᵀ, whether or not the pointers turn out to suit the engines.
template <class P, class Args>
view<fp8_e4m3, 3> transposed_weights(scratch_arena& arena, const Args& args) {
  if (!std::is_same_v<activation<P>, bf16> || !suits_hopper<bf16>(args.product)) return {};
  return transposed_room(arena, stacked(args.w).values);
}

/// dx = dy · w: w is turned over first, as the matrix unit reads 8-bit operands along the sum only.
template <class P, class G, class Args>
bool run_data_on_hopper(cudaStream_t stream, const Args& args, const view<fp8_e4m3, 3>& w_t) {
  if constexpr (std::is_same_v<activation<P>, bf16>) {
    const auto p = problem_of<P, G>(args);
    if (w_t.empty() || !takes_hopper(p) || !takes_tensor_map(args.dy.values)) return false;
    launch_transpose(args.name, stream, stacked(args.w).values, w_t, p.groups, p.m);
    return run_scaled_hopper<grouped_by::rows>(args.name, stream, p, args.dy.values,
                                               view<const fp8_e4m3, 3>(w_t));
  }
  return false;
}

/// dw += (dyᵀ) · (xᵀ)ᵀ. Sums run along the tokens: a box of the copy engine begins at a group's first token,
/// which must be a multiple of 16 bytes.
template <class P, class G, class Args>
bool run_weights_on_hopper(cudaStream_t stream, const Args& args) {
  if constexpr (requires { args.groups; })
    if (!args.groups.all() && args.groups.alignment % 16 != 0) return false;
  if constexpr (std::is_same_v<gradient<P>, float>)
    return suits_hopper<float>(args.product) &&
           run_scaled_hopper<grouped_by::terms>(args.name, stream, problem_of<P, G>(args), args.dy_t.values,
                                                stack_of_one(args.x_t.values));
  return false;
}

}  // namespace cuda::detail

template <class P, class Gradient>
struct implementation<op::scaled_gemm<P, Gradient>, backend::hopper>
    : implementation<op::scaled_gemm<P, Gradient>, backend::cuda> {
  using op_type = op::scaled_gemm<P, Gradient>;
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
