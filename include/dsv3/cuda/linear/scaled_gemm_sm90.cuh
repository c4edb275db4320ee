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

/// y = x · wᵀ
template <class P, class G, class Args>
bool takes_forward_on_hopper(const Args& args) {
  if constexpr (std::is_same_v<activation<P>, bf16>)
    return suits_hopper<bf16>(args.product) && takes_hopper(problem_of<P, G>(args)) &&
           takes_tensor_map(args.x.values) && takes_tensor_map(stacked(args.w).values);
  return false;
}
template <class P, class G, class Args>
void run_forward_on_hopper(cudaStream_t stream, const Args& args) {
  if constexpr (std::is_same_v<activation<P>, bf16>)
    run_scaled_hopper<grouped_by::rows>(args.name, stream, problem_of<P, G>(args), args.x.values,
                                        stacked(args.w).values);
}

/// dx = dy · w: w is turned over first, as the matrix unit reads 8-bit operands along the sum only.
template <class P, class G, class Args>
bool takes_data_on_hopper(const Args& args) {
  if constexpr (std::is_same_v<activation<P>, bf16>)
    return suits_hopper<bf16>(args.product) && !args.w.values.empty() &&
           takes_hopper(problem_of<P, G>(args)) && takes_tensor_map(args.dy.values);
  return false;
}
/// Room for wᵀ, whether or not the pointers turn out to suit the engines.
template <class P, class Args>
view<fp8_e4m3, 3> transposed_weights(scratch_arena& arena, const Args& args) {
  if (!std::is_same_v<activation<P>, bf16> || !suits_hopper<bf16>(args.product)) return {};
  return transposed_room(arena, stacked(args.w).values);
}
template <class P, class G, class Args>
void run_data_on_hopper(cudaStream_t stream, const Args& args, const view<fp8_e4m3, 3>& w_t) {
  if constexpr (std::is_same_v<activation<P>, bf16>) {
    const auto p = problem_of<P, G>(args);
    launch_transpose(args.name, stream, stacked(args.w).values, w_t, p.groups, p.m);
    run_scaled_hopper<grouped_by::rows>(args.name, stream, p, args.dy.values, view<const fp8_e4m3, 3>(w_t));
  }
}

/// dw += (dyᵀ) · (xᵀ)ᵀ. Sums run along the tokens: a box of the copy engine begins at a group's first token,
/// which must be a multiple of 16 bytes.
template <class P, class G, class Args>
bool takes_weights_on_hopper(const Args& args) {
  if constexpr (requires { args.groups; })
    if (!args.groups.all() && args.groups.alignment % 16 != 0) return false;
  if constexpr (std::is_same_v<gradient<P>, float>)
    return suits_hopper<float>(args.product) && takes_hopper(problem_of<P, G>(args)) &&
           takes_tensor_map(args.dy_t.values) && takes_tensor_map(args.x_t.values);
  return false;
}
template <class P, class G, class Args>
void run_weights_on_hopper(cudaStream_t stream, const Args& args) {
  if constexpr (std::is_same_v<gradient<P>, float>)
    run_scaled_hopper<grouped_by::terms>(args.name, stream, problem_of<P, G>(args), args.dy_t.values,
                                         stack_of_one(args.x_t.values));
}

/// The bodies of products over scaled tiles, of one matrix or of experts': the engines' where they take the
/// record, the parent's elsewhere.
template <class Op, class P, class Gradient>
struct scaled_products_on_hopper : implementation<Op, backend::cuda> {
  using parent = implementation<Op, backend::cuda>;
  using forward_args = typename Op::forward_args;
  using backward_data_args = typename Op::backward_data_args;
  using backward_weights_args = typename Op::backward_weights_args;

  template <class Ctx>
  static auto scratch(const Ctx&, scratch_arena& arena, const backward_data_args& args) {
    return transposed_weights<P>(arena, args);
  }
  template <class Args>
  static const char* path(const Args& args) {
    return takes(args) ? backend::hopper::path : backend::cuda::path;
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    takes(args) ? run_forward_on_hopper<P, Gradient>(ctx.stream, args) : parent::run(ctx, args);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const backward_data_args& args) {
    const auto w_t = scratch(ctx, ctx.scratch, args);
    takes(args) ? run_data_on_hopper<P, Gradient>(ctx.stream, args, w_t) : parent::run(ctx, args);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const backward_weights_args& args) {
    takes(args) ? run_weights_on_hopper<P, Gradient>(ctx.stream, args) : parent::run(ctx, args);
  }

 private:
  static bool takes(const forward_args& args) { return takes_forward_on_hopper<P, Gradient>(args); }
  static bool takes(const backward_data_args& args) { return takes_data_on_hopper<P, Gradient>(args); }
  static bool takes(const backward_weights_args& args) { return takes_weights_on_hopper<P, Gradient>(args); }
};

}  // namespace cuda::detail

template <class P, class Gradient>
struct implementation<op::scaled_gemm<P, Gradient>, backend::hopper>
    : cuda::detail::scaled_products_on_hopper<op::scaled_gemm<P, Gradient>, P, Gradient> {};

}  // namespace dsv3::inline DSV3_ABI
