// SPDX-License-Identifier: MIT
// The embedding table on the CPU.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/op/embedding/embedding.hpp>

#include <string>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::embedding<P>, backend::cpu> {
  using op_type = op::embedding<P>;
  using acc = accumulator<P>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    require_ids(op_type::forward_args::name, args.ids, args.table.extent(0));
    const index_t hidden = args.table.extent(1);
    cpu::parallel_ranges(ctx.threads, args.ids.extent(0), 1 + 16384 / (hidden + 1),
                         [&](index_t begin, index_t end) {
                           for (index_t t = begin; t < end; ++t) {
                             activation<P>* y = args.y[t].data();
                             if (args.ids(t) < 0) {
                               std::fill(y, y + hidden, activation<P>(0.0f));
                             } else {
                               const weight<P>* row = args.table[args.ids(t)].data();
                               DSV3_SIMD
                               for (index_t i = 0; i < hidden; ++i) y[i] = activation<P>(row[i]);
                             }
                           }
                         });
  }

  // Threads share the columns, so every sum runs over the tokens in order whatever their number.
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_args& args) {
    require_ids(op_type::backward_args::name, args.ids, args.dtable.extent(0));
    cpu::parallel_ranges(ctx.threads, args.dtable.extent(1), 64, [&](index_t begin, index_t end) {
      for (index_t t = 0; t < args.ids.extent(0); ++t) {
        if (args.ids(t) < 0) continue;
        const activation<P>* dy = args.dy[t].data();
        gradient<P>* row = args.dtable[args.ids(t)].data();
        DSV3_SIMD
        for (index_t i = begin; i < end; ++i) row[i] = gradient<P>(acc(row[i]) + acc(dy[i]));
      }
    });
  }

 private:
  static void require_ids(const char* name, const view<const std::int32_t, 1>& ids, index_t vocab) {
    for (index_t t = 0; t < ids.extent(0); ++t)
      if (ids(t) < -1 || ids(t) >= vocab)
        raise(std::string(name) + ": ids[" + std::to_string(t) + "] is " + std::to_string(ids(t)) +
              ", expected -1 or an id below the vocabulary of " + std::to_string(vocab));
  }
};

}  // namespace dsv3::inline DSV3_ABI
