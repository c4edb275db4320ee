// SPDX-License-Identifier: MIT
// Copies and conversions on the CPU.
#pragma once

#include <dsv3/cpu/memory/segments.hpp>
#include <dsv3/op/memory/copy.hpp>

namespace dsv3::inline DSV3_ABI {

template <class From, class To>
struct implementation<op::copy<From, To>, backend::cpu> {
  template <class Ctx>
  static void run(Ctx& ctx, const typename op::copy<From, To>::forward_args& args) {
    cpu::parallel_segments(ctx.threads, args.x.extent(0), args.x.extent(1),
                           [&](index_t row, index_t first, index_t last) {
                             const From* x = args.x[row].data();
                             To* y = args.y[row].data();
                             DSV3_SIMD
                             for (index_t i = first; i < last; ++i) y[i] = To(x[i]);
                           });
  }
};

}  // namespace dsv3::inline DSV3_ABI
