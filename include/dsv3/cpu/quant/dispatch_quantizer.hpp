// SPDX-License-Identifier: MIT
// Tokens to the experts' rows in 8 bits on the CPU: a token is quantised into its first row, which the others
// copy; one that came in 8 bits is copied into all of them.
#pragma once

#include <dsv3/cpu/expert/permute.hpp>
#include <dsv3/cpu/quant/row_tiles.hpp>
#include <dsv3/cpu/quant/tile_quantizer.hpp>
#include <dsv3/op/quant/dispatch_quantizer.hpp>

#include <algorithm>
#include <cstring>

namespace dsv3::inline DSV3_ABI {

template <class P, class Element>
struct implementation<op::dispatch_quantizer<P, Element>, backend::cpu> {
  using forward_args = typename op::dispatch_quantizer<P, Element>::forward_args;
  using place_args = typename op::dispatch_quantizer<P, Element>::place_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    if (args.plan.row_of.extent(1) == 0) return;
    const bool all = args.group == scale_group::tensor;
    const float amax = all ? cpu::largest_live_magnitude(ctx.threads, args.x, {}) : 0;
    const index_t tokens = args.x.extent(0), width = args.x.extent(1);
    const auto quantize_strips = [&](index_t begin, index_t end, index_t first, index_t last) {
      for (index_t c = first; c < last; c += cpu::strip_columns)
        quantize(args, begin, end, c, std::min(c + cpu::strip_columns, last), amax);
    };
    cpu::parallel_bands(ctx.threads, {}, tokens, width, cpu::stretch_of(ctx.threads, {}, tokens, width),
                        [&](const cpu::row_band& band, index_t first, index_t last) {
                          if (args.group != scale_group::tile)
                            return quantize_strips(band.begin, band.end, first, last);
                          for (index_t t = band.begin; t < band.end; ++t)
                            quantize_strips(t, t + 1, first, last);
                        });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const place_args& args) {
    const index_t width = args.x.extent(1), tiles = args.x.scales.extent(1);
    implementation<op::permute<P>, backend::cpu>::each_token(ctx.threads, args.plan, width, [&](index_t t) {
      for (index_t k = 0; k < args.plan.row_of.extent(1); ++k)
        if (const index_t row = args.plan.row_of(t, k); row >= 0) {
          std::memcpy(args.rows.values[row].data(), args.x.values[t].data(), static_cast<std::size_t>(width));
          for (index_t i = 0; i < tiles; ++i) args.rows.scales(row, i) = args.x.scales(t, i);
        }
    });
  }

 private:
  // Columns [first, last) of tokens [begin, end) that share the scales of each 128 of them.
  static void quantize(const forward_args& args, index_t begin, index_t end, index_t first, index_t last,
                       float amax) {
    cpu::magnitude_of<activation<P>> magnitudes[cpu::strip_columns / 128] = {};
    if (args.group != scale_group::tensor)
      for (index_t t = begin; t < end; ++t)
        each_tile(first, last, [&](index_t tile, index_t c, index_t count) {
          magnitudes[tile] = std::max(magnitudes[tile], cpu::largest_of_tile(&args.x(t, c), count));
        });
    float scales[cpu::strip_columns / 128];
    each_tile(first, last, [&](index_t tile, index_t, index_t) {
      const float own = args.group == scale_group::tensor ? amax : cpu::magnitude(magnitudes[tile]);
      scales[tile] = tile_scale(own, static_cast<float>(number_traits<Element>::max), args.scales);
    });
    for (index_t t = begin; t < end; ++t) {
      index_t row = -1;  // the token's first
      for (index_t k = 0; k < args.plan.row_of.extent(1); ++k) {
        const index_t copy = args.plan.row_of(t, k);
        if (copy < 0) continue;
        if (row < 0) {
          row = copy;
          each_tile(first, last, [&](index_t tile, index_t c, index_t count) {
            cpu::narrow(&args.x(t, c), cpu::one_scale{scales[tile]}, &args.rows.values(row, c), count);
          });
        } else {
          std::memcpy(&args.rows.values(copy, first), &args.rows.values(row, first),
                      static_cast<std::size_t>(last - first));
        }
        each_tile(first, last,
                  [&](index_t tile, index_t c, index_t) { args.rows.scales(copy, c / 128) = scales[tile]; });
      }
    }
  }

  // body(number in the strip, first column, columns)
  template <class Body>
  static void each_tile(index_t first, index_t last, Body&& body) {
    for (index_t c = first, tile = 0; c < last; c += 128, ++tile)
      body(tile, c, std::min<index_t>(128, last - c));
  }
};

}  // namespace dsv3::inline DSV3_ABI
