// SPDX-License-Identifier: MIT
// AdamW on the CPU: one pass over the tensor, stretches of it shared among threads.
#pragma once

#include <dsv3/cpu/host/math.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/op/optim/adamw.hpp>

#include <algorithm>
#include <cmath>

namespace dsv3::inline DSV3_ABI {

template <class P, class Weight>
struct implementation<op::adamw<P, Weight>, backend::cpu> {
  using op_type = op::adamw<P, Weight>;
  using number = master<P>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::step_args& args) {
    if (!std::isfinite(args.scale(0))) return;
    const coefficients c(args);
    // Threads get whole stretches, so that an element meets the same vector code whatever the thread count.
    constexpr index_t stretch = 16384;
    const index_t n = args.g.extent(0);
    cpu::parallel_ranges(ctx.threads, ceil_div(n, stretch), 4, [&](index_t first, index_t last) {
      const index_t begin = first * stretch, end = std::min(last * stretch, n);
      update(c, args.g.data() + begin, args.p.data() + begin, args.w.data() + begin, args.m.data() + begin,
             args.v.data() + begin, end - begin);
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::step_all_args& args) {
    for (const typename op_type::tensor& t : args.tensors) run(ctx, args.one(t));
  }

 private:
  // What is the same for every element, computed in double and rounded once.
  struct coefficients {
    number keep_m, take_m, keep_v, take_v;  // β and 1 - β
    number unbias_m, unbias_v;              // 1 / (1 - β^step)
    number scale, learning_rate, epsilon, weight_decay;

    explicit coefficients(const typename op_type::step_args& args)
        : keep_m(number(args.config.beta1)),
          take_m(number(1 - args.config.beta1)),
          keep_v(number(args.config.beta2)),
          take_v(number(1 - args.config.beta2)),
          unbias_m(number(args.pace(1))),
          unbias_v(number(args.pace(2))),
          scale(number(args.scale(0))),
          learning_rate(number(args.pace(0))),
          epsilon(number(args.config.epsilon)),
          weight_decay(number(args.config.weight_decay)) {}
  };

  static void update(const coefficients c, const gradient<P>* g, number* p, Weight* w, moment<P>* m,
                     moment<P>* v, index_t count) {
    DSV3_SIMD
    for (index_t i = 0; i < count; ++i) {
      const number slope = number(g[i]) * c.scale;
      const moment<P> mean(c.keep_m * number(m[i]) + c.take_m * slope);
      const moment<P> square(c.keep_v * number(v[i]) + c.take_v * slope * slope);
      const number direction =
          number(mean) * c.unbias_m / (cpu::square_root(number(square) * c.unbias_v) + c.epsilon);
      const number moved = p[i] - c.learning_rate * (direction + c.weight_decay * p[i]);
      m[i] = moment<P>(mean);
      v[i] = moment<P>(square);
      p[i] = moved;
      w[i] = Weight(moved);
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI
