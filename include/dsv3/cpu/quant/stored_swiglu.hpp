// SPDX-License-Identifier: MIT
// SwiGLU between products of 8-bit operands on the CPU: the operations it stands for, one after another.
#pragma once

#include <dsv3/cpu/quant/swiglu_quantizer.hpp>
#include <dsv3/cpu/quant/transposing_quantizer.hpp>
#include <dsv3/exec/scratch.hpp>
#include <dsv3/op/quant/stored_swiglu.hpp>

namespace dsv3::inline DSV3_ABI {

template <class P, class Gradient>
struct implementation<op::stored_swiglu<P, Gradient>, backend::cpu> {
  using op_type = op::stored_swiglu<P, Gradient>;
  using rows = view<activation<P>, 2>;
  using tiles = scaled_view<fp8_e4m3, row_tile>;
  struct again_scratch {
    rows gate_up;  // [rows, 2 * inner]
    tiles y;       // [rows, inner]
  };

  template <class Ctx>
  static again_scratch scratch(const Ctx&, scratch_arena& arena, const typename op_type::again_args& args) {
    const index_t count = args.kept.extent(0), inner = args.t.extent(0), across = ceil_div(inner, 128);
    return {arena.tensor<activation<P>>(count, 2 * inner),
            {arena.tensor<fp8_e4m3>(count, inner),
             tiles::scales_at(arena.take<float>(count * across), {count, across})}};
  }
  template <class Ctx>
  static rows scratch(const Ctx&, scratch_arena& arena, const typename op_type::backward_args& args) {
    return arena.tensor<activation<P>>(args.kept.extent(0), args.kept.extent(1));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    call<op::tile_quantizer<activation<P>, fp8_e4m3, row_tile>>(
        ctx, {.x = args.gate_up, .y = args.kept, .scales = args.scales, .groups = args.groups});
    gate(ctx, args.gate_up, args.y, args);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::again_args& args) {
    const again_scratch made = scratch(ctx, ctx.scratch, args);
    load(ctx, args, made.gate_up);
    gate(ctx, made.gate_up, made.y, args);
    using retile = op::transposing_quantizer<activation<P>, fp8_e4m3>;
    implementation<retile, backend::cpu>::run(
        ctx,
        typename retile::retile_args{.y = made.y, .t = args.t, .scales = args.scales, .groups = args.groups});
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_args& args) {
    const rows d_gate_up = scratch(ctx, ctx.scratch, args);
    load(ctx, args, d_gate_up);
    for (index_t g = 0; g < args.groups.groups(); ++g) {
      const index_t first = args.groups.first(g), last = first + args.groups.count(g, args.dy.extent(0));
      const rows live = d_gate_up.rows(first, last);
      const auto of = [&](const auto& gates) { return gates.empty() ? gates : gates.rows(first, last); };
      implementation<op::swiglu<P>, backend::cpu>::run(
          ctx, typename op::swiglu<P>::backward_args{.dy = args.dy.rows(first, last),
                                                     .gate_up = live,
                                                     .d_gate_up = live,
                                                     .row_gates = of(args.row_gates),
                                                     .d_row_gates = of(args.d_row_gates)});
    }
    using quantizer = op::transposing_quantizer<activation<P>, Gradient>;
    implementation<quantizer, backend::cpu>::run(
        ctx, typename quantizer::both_args{
                 .x = d_gate_up, .y = args.y, .t = args.t, .scales = args.scales, .groups = args.groups});
  }

 private:
  template <class Op, class Ctx>
  static void call(Ctx& ctx, const typename Op::forward_args& args) {
    implementation<Op, backend::cpu>::run(ctx, args);
  }
  template <class Ctx, class Args>
  static void load(Ctx& ctx, const Args& args, const rows& to) {
    using quantizer = op::tile_quantizer<activation<P>, fp8_e4m3, row_tile>;
    implementation<quantizer, backend::cpu>::run(
        ctx, typename quantizer::dequantize_args{.x = args.kept, .y = to, .groups = args.groups});
  }
  template <class Ctx, class Args>
  static void gate(Ctx& ctx, const view<const activation<P>, 2>& gate_up, const tiles& y, const Args& args) {
    call<op::swiglu_quantizer<P>>(ctx, {.gate_up = gate_up,
                                        .y = y,
                                        .row_gates = args.row_gates,
                                        .scales = args.scales,
                                        .groups = args.groups});
  }
};

}  // namespace dsv3::inline DSV3_ABI
