// SPDX-License-Identifier: MIT
// The sum of two streams on the CPU.
#pragma once

#include <dsv3/cpu/memory/segments.hpp>
#include <dsv3/op/memory/add.hpp>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::add<P>, backend::cpu> {
  using acc = accumulator<P>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op::add<P>::forward_args& args) {
    cpu::parallel_segments(ctx.threads, args.y.extent(0), args.y.extent(1),
                           [&](index_t row, index_t first, index_t last) {
                             const activation<P>*a = args.a[row].data(), *b = args.b[row].data();
                             activation<P>* y = args.y[row].data();
                             DSV3_SIMD
                             for (index_t i = first; i < last; ++i)
                               y[i] = activation<P>(acc(a[i]) + acc(b[i]));
                           });
  }
};

}  // namespace dsv3::inline DSV3_ABI
