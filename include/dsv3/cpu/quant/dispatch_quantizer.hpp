// SPDX-License-Identifier: MIT
// Tokens to the experts' rows in 8 bits on the CPU: a token is quantised into its first row and copied to the
// others.
#pragma once

#include <dsv3/cpu/expert/permute.hpp>
#include <dsv3/cpu/quant/row_tiles.hpp>
#include <dsv3/op/quant/dispatch_quantizer.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI {

template <class P, class Element>
struct implementation<op::dispatch_quantizer<P, Element>, backend::cpu> {
  using permute = implementation<op::permute<P>, backend::cpu>;
  using forward_args = typename op::dispatch_quantizer<P, Element>::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const index_t width = args.x.extent(1), top_k = args.plan.row_of.extent(1);
    if (top_k == 0) return;
    permute::each_token(ctx.threads, args.plan, width, [&](index_t t) {
      const index_t quantized = args.plan.row_of(t, 0);
      cpu::each_tile(width, [&](index_t tile, index_t first, index_t count) {
        args.rows.scales(quantized, tile) = cpu::quantize_tile(args.x[t].data() + first, count, args.scales,
                                                               args.rows.values[quantized].data() + first);
      });
      for (index_t k = 1; k < top_k; ++k) copy_row(args.rows, quantized, args.plan.row_of(t, k), width);
    });
  }

 private:
  static void copy_row(const scaled_view<Element, row_tile>& rows, index_t from, index_t to, index_t width) {
    std::copy_n(rows.values[from].data(), width, rows.values[to].data());
    for (index_t tile = 0; tile < rows.scales.extent(1); ++tile)
      rows.scales(to, tile) = rows.scales(from, tile);
  }
};

}  // namespace dsv3::inline DSV3_ABI
