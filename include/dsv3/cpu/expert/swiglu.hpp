// SPDX-License-Identifier: MIT
// SwiGLU on the CPU: live rows, a few at a time, shared among threads.
#pragma once

#include <dsv3/cpu/host/gate_avx512.hpp>
#include <dsv3/cpu/host/math.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/op/expert/swiglu.hpp>

#include <algorithm>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::swiglu<P>, backend::cpu> {
  using op_type = op::swiglu<P>;
  using acc = accumulator<P>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    const index_t inner = args.y.extent(1);
    each_live_row(ctx.threads, args.y.extent(0), inner, args.token_of, [&](index_t r) {
      const activation<P>*gate = args.gate_up[r].data(), *up = gate + inner;
      activate(gate, up, args.row_gates.empty() ? acc(1) : args.row_gates(r), inner, args.y[r].data());
    });
  }

  /// `count` columns of a row's y.
  static void activate(const activation<P>* gate, const activation<P>* up, acc w, index_t count,
                       activation<P>* y) {
    const auto each = [&](index_t first, index_t last) {
      DSV3_SIMD
      for (index_t i = first; i < last; ++i) {
        const acc g = acc(gate[i]);
        y[i] = activation<P>(w * g * cpu::sigmoid(g) * acc(up[i]));
      }
    };
    index_t done = 0;
#if DSV3_AVX512
    if constexpr (std::is_same_v<activation<P>, bf16> && std::is_same_v<acc, float>)
      done = cpu::avx512::gate(gate, up, w, y, count, [&](index_t i) { each(i, i + 32); });
#endif
    each(done, count);
  }

  // Both halves of a column are read before either is written, so d_gate_up may be gate_up.
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_args& args) {
    const index_t inner = args.dy.extent(1);
    each_live_row(ctx.threads, args.dy.extent(0), inner, args.token_of, [&](index_t r) {
      const activation<P>*gate = args.gate_up[r].data(), *up = gate + inner, *dy = args.dy[r].data();
      activation<P>*d_gate = args.d_gate_up[r].data(), *d_up = d_gate + inner;
      const acc w = args.row_gates.empty() ? acc(1) : args.row_gates(r);
      acc d_row_gate = 0;
      DSV3_SIMD_SUM(d_row_gate)
      for (index_t i = 0; i < inner; ++i) {
        const acc g = acc(gate[i]), u = acc(up[i]), d = acc(dy[i]);
        const acc sigma = cpu::sigmoid(g), silu = g * sigma;
        d_row_gate += d * silu * u;
        d_gate[i] = activation<P>(w * d * u * (sigma + silu * (1 - sigma)));
        d_up[i] = activation<P>(w * d * silu);
      }
      if (!args.d_row_gates.empty()) args.d_row_gates(r) = d_row_gate;
    });
  }

 private:
  // Padding may gather at one end of the rows, so a thread takes a few rows at a time.
  template <class Body>
  static void each_live_row(int threads, index_t rows, index_t inner,
                            const view<const std::int32_t, 1>& token_of, Body&& body) {
    const index_t chunk = 1 + (1 << 14) / (inner + 1);
    cpu::parallel_parts(threads, ceil_div(rows, chunk), [&](index_t part) {
      for (index_t r = part * chunk; r < std::min((part + 1) * chunk, rows); ++r)
        if (token_of.empty() || token_of(r) >= 0) body(r);
    });
  }
};

}  // namespace dsv3::inline DSV3_ABI
