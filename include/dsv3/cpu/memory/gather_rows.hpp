// SPDX-License-Identifier: MIT
// Picking rows on the CPU.
#pragma once

#include <dsv3/cpu/memory/segments.hpp>
#include <dsv3/op/memory/gather_rows.hpp>

#include <algorithm>
#include <string>

namespace dsv3::inline DSV3_ABI {

template <class T>
struct implementation<op::gather_rows<T>, backend::cpu> {
  template <class Ctx>
  static void run(Ctx& ctx, const typename op::gather_rows<T>::forward_args& args) {
    for (index_t i = 0; i < args.rows.extent(0); ++i)
      if (args.rows(i) < 0 || args.rows(i) >= args.x.extent(0))
        raise("gather_rows: rows[" + std::to_string(i) + "] is " + std::to_string(args.rows(i)) +
              ", expected a row below " + std::to_string(args.x.extent(0)));
    cpu::parallel_segments(ctx.threads, args.y.extent(0), args.y.extent(1),
                           [&](index_t row, index_t first, index_t last) {
                             const T* x = args.x[args.rows(row)].data();
                             std::copy(x + first, x + last, args.y[row].data() + first);
                           });
  }
};

}  // namespace dsv3::inline DSV3_ABI
