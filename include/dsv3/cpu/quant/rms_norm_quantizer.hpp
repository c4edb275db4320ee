// SPDX-License-Identifier: MIT
// RMSNorm into tiles on the CPU: a row is measured, then normalised and quantised 128 columns at a time.
#pragma once

#include <dsv3/cpu/norm/rms_norm.hpp>
#include <dsv3/cpu/quant/row_tiles.hpp>
#include <dsv3/op/quant/rms_norm_quantizer.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI {

template <class P, class Element>
struct implementation<op::rms_norm_quantizer<P, Element>, backend::cpu> {
  using rms_norm = implementation<op::rms_norm<P>, backend::cpu>;
  using forward_args = typename op::rms_norm_quantizer<P, Element>::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const index_t hidden = args.y.extent(1), grain = rms_norm::row_grain(hidden);
    cpu::parallel_ranges(ctx.threads, args.y.extent(0), grain, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) quantize_row(args, t, hidden);
    });
  }

 private:
  static void quantize_row(const forward_args& args, index_t t, index_t hidden) {
    const auto& plain = args.plain;
    const activation<P>* s = rms_norm::summed_row(plain, t);
    const accumulator<P> r = rms_norm::measured_row(plain, s, t);
    cpu::each_tile(hidden, [&](index_t tile, index_t first, index_t count) {
      activation<P> normal[128];
      rms_norm::normalize(s + first, r, plain.gain.data() + first, count, normal);
      if (!plain.y.empty()) std::copy_n(normal, count, plain.y[t].data() + first);
      args.y.scales(t, tile) =
          cpu::quantize_tile(normal, count, args.scales, args.y.values[t].data() + first);
    });
  }
};

}  // namespace dsv3::inline DSV3_ABI
