// SPDX-License-Identifier: MIT
// RMSNorm into tiles on the CPU: a row is measured, then normalised and quantised strip by strip.
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
    const index_t grain = rms_norm::row_grain(args.y.extent(1));
    cpu::parallel_ranges(ctx.threads, args.y.extent(0), grain, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) quantize(args, t);
    });
  }

 private:
  static void quantize(const forward_args& args, index_t t) {
    const auto& plain = args.plain;
    const activation<P>* s = rms_norm::summed_row(plain, t);
    const accumulator<P> r = rms_norm::measured_row(plain, s, t);
    for (index_t first = 0; first < args.y.extent(1); first += cpu::strip_columns) {
      const index_t count = std::min(cpu::strip_columns, args.y.extent(1) - first);
      cpu::room<activation<P>, cpu::strip_columns> strip;
      rms_norm::normalize(s + first, r, plain.gain.data() + first, count, strip.data());
      if (!plain.y.empty()) std::copy_n(strip.data(), count, &plain.y(t, first));
      cpu::quantize_strip(strip.data(), count, args.scales, &args.y.values(t, first),
                          [&](index_t tile, float scale) { args.y.scales(t, first / 128 + tile) = scale; });
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI
