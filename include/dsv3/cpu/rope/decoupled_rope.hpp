// SPDX-License-Identifier: MIT
// Rotary embedding on the CPU: one token at a time, tokens shared among threads.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/op/rope/decoupled_rope.hpp>

#include <cmath>
#include <string>

namespace dsv3::inline DSV3_ABI {

template <class P, rope_layout Layout>
struct implementation<op::decoupled_rope<P, Layout>, backend::cpu> {
  using op_type = op::decoupled_rope<P, Layout>;
  using acc = accumulator<P>;

  // Angles are computed in double whatever the precision: far positions turn through thousands of radians.
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::table_args& args) {
    const auto& table = args.table;
    const index_t pairs = table.cosine.extent(1);
    const double factor = args.rope.attention_factor();
    cpu::parallel_ranges(ctx.threads, table.cosine.extent(0), 64, [&](index_t begin, index_t end) {
      for (index_t i = 0; i < pairs; ++i) {
        const double frequency = args.rope.frequency(i, 2 * pairs);
        for (index_t position = begin; position < end; ++position) {
          const double angle = static_cast<double>(position) * frequency;
          table.cosine(position, i) = static_cast<acc>(factor * std::cos(angle));
          table.sine(position, i) = static_cast<acc>(factor * std::sin(angle));
        }
      }
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::apply_args& args) {
    const index_t heads = args.x.extent(1), pairs = args.table.cosine.extent(1);
    require_in_table(args.positions, args.table.cosine.extent(0));
    const index_t grain =
        1 + 8192 / (heads * pairs + 1);  // tokens below which a thread costs more than it does
    cpu::parallel_ranges(ctx.threads, args.x.extent(0), grain, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) {
        const index_t position = args.positions(t);
        const acc* cosine = &args.table.cosine(position, 0);
        const acc* sine = &args.table.sine(position, 0);
        for (index_t h = 0; h < heads; ++h) {
          activation<P>* x = &args.x(t, h, 0);
          if (args.direction == rotation::forward)
            rotate<1>(x, cosine, sine, pairs);
          else
            rotate<-1>(x, cosine, sine, pairs);
        }
      }
    });
  }

 private:
  // Before anything is rotated, so that a refused call leaves x as it was.
  static void require_in_table(view<const std::int32_t, 1> positions, index_t rows) {
    for (index_t t = 0; t < positions.extent(0); ++t)
      if (positions(t) < 0 || positions(t) >= rows)
        raise("decoupled_rope.apply: token " + std::to_string(t) + " has position " +
              std::to_string(positions(t)) + ", the table has " + std::to_string(rows) + " positions");
  }

  template <int Direction>
  static void rotate(activation<P>* x, const acc* cosine, const acc* sine, index_t pairs) {
    constexpr bool neighbours = Layout == rope_layout::interleaved;
    const index_t step = neighbours ? 2 : 1, apart = neighbours ? 1 : pairs;
    DSV3_SIMD
    for (index_t i = 0; i < pairs; ++i) {
      const acc a = acc(x[step * i]), b = acc(x[step * i + apart]), s = acc(Direction) * sine[i];
      x[step * i] = activation<P>(a * cosine[i] - b * s);
      x[step * i + apart] = activation<P>(a * s + b * cosine[i]);
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI
