// SPDX-License-Identifier: MIT
// AdamW and then tiles on the CPU.
#pragma once

#include <dsv3/cpu/optim/adamw.hpp>
#include <dsv3/cpu/quant/tile_quantizer.hpp>
#include <dsv3/op/quant/adamw_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

template <class P, class Element>
struct implementation<op::adamw_quantizer<P, Element>, backend::cpu> {
  using step_args = typename op::adamw_quantizer<P, Element>::step_args;
  using quantizer = op::tile_quantizer<master<P>, Element, block_tile>;

  template <class Ctx>
  static void run(Ctx& ctx, const step_args& args) {
    if (!std::isfinite(args.scale(0))) return;
    implementation<op::adamw<P, master<P>>, backend::cpu>::run(ctx, args.plain());
    const index_t rows = args.w.extent(1), columns = args.w.extent(2);
    for (index_t i = 0; i < args.w.extent(0); ++i)
      implementation<quantizer, backend::cpu>::run(
          ctx, typename quantizer::forward_args{
                   .x = view<const master<P>, 2>{args.p.data() + i * rows * columns, rows, columns},
                   .y = args.w[i],
                   .scales = args.scales});
  }
};

}  // namespace dsv3::inline DSV3_ABI
