// SPDX-License-Identifier: MIT
// SwiGLU into tiles on the CPU: 128 columns at a time, which never leave the nearest cache.
#pragma once

#include <dsv3/cpu/expert/swiglu.hpp>
#include <dsv3/cpu/quant/live_rows.hpp>
#include <dsv3/cpu/quant/row_tiles.hpp>
#include <dsv3/op/quant/swiglu_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

template <class P, class Element>
struct implementation<op::swiglu_quantizer<P, Element>, backend::cpu> {
  using swiglu = implementation<op::swiglu<P>, backend::cpu>;
  using forward_args = typename op::swiglu_quantizer<P, Element>::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const index_t inner = args.y.extent(1);
    cpu::each_live_row(ctx.threads, args.groups, args.y.extent(0), inner, [&](index_t, index_t row) {
      const activation<P>*gate = args.gate_up[row].data(), *up = gate + inner;
      const accumulator<P> w = args.row_gates.empty() ? accumulator<P>(1) : args.row_gates(row);
      cpu::each_tile(inner, [&](index_t tile, index_t first, index_t count) {
        activation<P> plain[128];
        swiglu::activate(gate + first, up + first, w, count, plain);
        args.y.scales(row, tile) =
            cpu::quantize_tile(plain, count, args.scales, args.y.values[row].data() + first);
      });
    });
  }
};

}  // namespace dsv3::inline DSV3_ABI
