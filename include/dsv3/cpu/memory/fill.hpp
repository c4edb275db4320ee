// SPDX-License-Identifier: MIT
// Constants and random draws on the CPU.
#pragma once

#include <dsv3/cpu/memory/segments.hpp>
#include <dsv3/op/memory/fill.hpp>

namespace dsv3::inline DSV3_ABI {

template <class Element>
struct implementation<op::fill<Element>, backend::cpu> {
  using op_type = op::fill<Element>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::constant_args& args) {
    const Element value(args.value);
    cpu::parallel_segments(ctx.threads, 1, args.y.extent(0), [&](index_t, index_t first, index_t last) {
      std::fill(args.y.data() + first, args.y.data() + last, value);
    });
  }

  // Every draw is a function of its index, so the split does not show.
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::normal_args& args) {
    cpu::parallel_segments(ctx.threads, 1, args.y.extent(0), [&](index_t, index_t first, index_t last) {
      for (index_t i = first; i < last; ++i)
        args.y(i) = Element(args.mean +
                            args.deviation * args.random.normal(static_cast<std::uint64_t>(args.first + i)));
    });
  }
};

}  // namespace dsv3::inline DSV3_ABI
