// SPDX-License-Identifier: MIT
// SwiGLU into tiles on the GPU: the plain numbers stay in registers.
#pragma once

#include <dsv3/cuda/expert/swiglu.cuh>
#include <dsv3/cuda/quant/row_tiles.cuh>
#include <dsv3/op/quant/swiglu_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

/// SwiGLU's output, rounded as it is where it is stored.
template <class P>
struct activated_rows {
  using acc = accumulator<P>;
  struct numbers {
    eight<activation<P>> gate, up;
    acc w;
  };
  wide_rows<activation<P>> gates, ups;
  view<const acc, 1> row_gates;

  template <int Count>
  __device__ __forceinline__ void load(index_t row, index_t end, index_t column, index_t live,
                                       numbers (&to)[Count]) const {
    eight<activation<P>> gate[Count], up[Count];
    gates.load(row, end, column, live, gate);
    ups.load(row, end, column, live, up);
#pragma unroll
    for (int i = 0; i < Count; ++i)
      to[i] = {gate[i], up[i], row + i < end && !row_gates.empty() ? row_gates(row + i) : acc(1)};
  }
  __device__ __forceinline__ void floats(const numbers& from, float (&to)[lane_numbers]) const {
    acc y[lane_numbers];
#pragma unroll
    for (int j = 0; j < lane_numbers; ++j) {
      const acc g = acc(from.gate[j]);
      y[j] = from.w * g * sigmoid(g) * acc(from.up[j]);
    }
    const auto stored = rounded<activation<P>>(y);
#pragma unroll
    for (int j = 0; j < lane_numbers; ++j) to[j] = static_cast<float>(stored[j]);
  }
};

}  // namespace cuda::detail

template <class P, class Element>
struct implementation<op::swiglu_quantizer<P, Element>, backend::cuda> {
  using forward_args = typename op::swiglu_quantizer<P, Element>::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    using rows = cuda::wide_rows<activation<P>>;
    const index_t inner = args.y.extent(1);
    const cuda::detail::activated_rows<P> source{
        rows(args.gate_up.columns(0, inner)), rows(args.gate_up.columns(inner, 2 * inner)), args.row_gates};
    cuda::narrow_rows(args.name, ctx.stream, source, cuda::code_rows<Element>(args.y.values, args.y.scales),
                      args.groups, args.y.extent(0), inner, args.scales);
  }
};

}  // namespace dsv3::inline DSV3_ABI
