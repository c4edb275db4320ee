// SPDX-License-Identifier: MIT
// SwiGLU into tiles on the CPU: a strip of a row at a time, whose plain numbers never leave the nearest
// cache.
#pragma once

#include <dsv3/cpu/expert/swiglu.hpp>
#include <dsv3/cpu/quant/row_tiles.hpp>
#include <dsv3/op/quant/swiglu_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

template <class P, class Element>
struct implementation<op::swiglu_quantizer<P, Element>, backend::cpu> {
  using swiglu = implementation<op::swiglu<P>, backend::cpu>;
  using forward_args = typename op::swiglu_quantizer<P, Element>::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    cpu::parallel_strips(
        ctx.threads, args.groups, args.y.extent(0), args.y.extent(1),
        [&](index_t row, index_t first, index_t count) { quantize(args, row, first, count); });
  }

 private:
  static void quantize(const forward_args& args, index_t row, index_t first, index_t count) {
    const activation<P>*gate = args.gate_up[row].data(), *up = gate + args.y.extent(1);
    const accumulator<P> w = args.row_gates.empty() ? accumulator<P>(1) : args.row_gates(row);
    cpu::room<activation<P>, cpu::strip_columns> plain;
    swiglu::activate(gate + first, up + first, w, count, plain.data());
    cpu::quantize_strip(plain.data(), count, args.scales, &args.y.values(row, first),
                        [&](index_t tile, float scale) { args.y.scales(row, first / 128 + tile) = scale; });
  }
};

}  // namespace dsv3::inline DSV3_ABI
