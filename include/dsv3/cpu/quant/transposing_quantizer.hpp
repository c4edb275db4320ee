// SPDX-License-Identifier: MIT
// Transposed quantisation on the CPU: 128 tokens by 128 channels at a time, in the nearest caches.
#pragma once

#include <dsv3/cpu/quant/tile_quantizer.hpp>
#include <dsv3/op/quant/transposing_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

template <class From, class Element>
struct implementation<op::transposing_quantizer<From, Element>, backend::cpu> {
  using op_type = op::transposing_quantizer<From, Element>;
  static constexpr float largest = static_cast<float>(number_traits<Element>::max);

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    const float whole = args.group == scale_group::tensor
                            ? cpu::largest_live_magnitude(ctx.threads, args.x, args.groups)
                            : 0.0f;
    each_block(ctx, args, args.x, [&](const cpu::row_band& band, index_t first, index_t last) {
      transpose(args, band, first, last, &args.x(band.begin, first), args.x.stride(0), whole,
                after(args.x, last));
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::both_args& args) {
    const scaled_view<Element, row_tile>& y = args.y;
    const float whole = args.group == scale_group::tensor
                            ? cpu::largest_live_magnitude(ctx.threads, args.x, args.groups)
                            : 0.0f;
    each_block(ctx, args, args.x, [&](const cpu::row_band& band, index_t first, index_t last) {
      const float scale = transpose(args, band, first, last, &args.x(band.begin, first), args.x.stride(0),
                                    whole, after(args.x, last));
      cpu::magnitude_of<From> magnitudes[128] = {};
      cpu::scale_row<128> own;  // of the tokens
      const index_t tokens = band.end - band.begin, channels = last - first;
      if (args.group == scale_group::tile)
        for (index_t r = 0; r < tokens; ++r)
          magnitudes[r] = cpu::largest_of_tile(&args.x(band.begin + r, first), channels);
      own.assign(magnitudes, tokens, largest, args.scales);
      for (index_t r = 0; r < tokens; ++r) {
        const index_t token = band.begin + r;
        const cpu::one_scale by = args.group == scale_group::tile ? own.tile(r) : cpu::one_scale{scale};
        y.scales(token, first / 128) = by.scale;
        cpu::narrow(&args.x(token, first), by, &y.values(token, first), channels);
      }
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::retile_args& args) {
    std::atomic<std::uint32_t> seen{0};
    if (args.group == scale_group::tensor)
      each_block(ctx, args, args.y.values, [&](const cpu::row_band& band, index_t first, index_t last) {
        float x[128];
        for (index_t r = band.begin; r < band.end; ++r) {
          cpu::widen(&args.y.values(r, first), args.y.scale_of(r, first), x, last - first);
          cpu::keep_larger(seen, cpu::largest_magnitude(x, last - first));
        }
      });
    const float whole = cpu::magnitude(seen.load());
    each_block(ctx, args, args.y.values, [&](const cpu::row_band& band, index_t first, index_t last) {
      bool exact = true;  // bf16 holds a code times a power of two
      for (index_t r = band.begin; r < band.end; ++r)
        exact = exact && cpu::divides_exactly(args.y.scale_of(r, first));
      if (exact)
        retile<bf16>(args, band, first, last, whole);
      else
        retile<float>(args, band, first, last, whole);
    });
  }

 private:
  template <class Ctx, class Args, class Wide, class Body>
  static void each_block(Ctx& ctx, const Args& args, const Wide& x, Body&& body) {
    const index_t tokens = x.extent(0), channels = x.extent(1);
    const index_t stretch = cpu::stretch_of(ctx.threads, args.groups, tokens, channels);
    cpu::parallel_bands(ctx.threads, args.groups, tokens, channels, stretch,
                        [&](const cpu::row_band& band, index_t first, index_t last) {
                          for (index_t c = first; c < last; c += 128) body(band, c, std::min(c + 128, last));
                        });
  }

  template <class Wide>
  static void retile(const typename op_type::retile_args& args, const cpu::row_band& band, index_t first,
                     index_t last, float whole) {
    cpu::room<Wide, 128 * 128> x;
    for (index_t r = band.begin; r < band.end; ++r) {
      const Element* row = &args.y.values(r, first);
      cpu::prefetch(row + (last - first), after(args.y.values, last));
      cpu::widen(row, args.y.scale_of(r, first), x + 128 * (r - band.begin), last - first);
    }
    transpose(args, band, first, last, x.data(), 128, whole, 0);
  }

  // How many channels the next block has.
  template <class Wide>
  static index_t after(const Wide& x, index_t last) {
    return std::min<index_t>(128, x.extent(1) - last);
  }

  // Channels [first, last) of a band's tokens, whose numbers stand at `x` in rows `stride` apart, to rows of
  // t; the `next` numbers of each row are asked for. Returns the last channel's scale: where a block or the
  // tensor shares one, that one.
  template <class Args, class Wide>
  static float transpose(const Args& args, const cpu::row_band& band, index_t first, index_t last,
                         const Wide* x, index_t stride, float whole, index_t next) {
    const index_t channels = last - first, tokens = band.end - band.begin;
    cpu::magnitude_of<Wide> magnitudes[128] = {};
    cpu::scale_row<128, Wide> by;
    if (args.group == scale_group::tensor) {
      std::fill_n(magnitudes, channels, cpu::magnitude_bits(Wide(whole)));
    } else {
      cpu::raise_magnitudes(x, stride, tokens, magnitudes, channels);
      if (args.group == scale_group::block)
        std::fill_n(magnitudes, channels, *std::max_element(magnitudes, magnitudes + channels));
    }
    by.assign(magnitudes, channels, largest, args.scales);
    for (index_t c = 0; c < channels; ++c) args.t.scales(first + c, band.tile) = by.scales[c];
    cpu::room<Element, 128 * 128> codes;
    for (index_t r = 0; r < tokens; ++r) {
      cpu::prefetch(x + r * stride + channels, next);
      cpu::narrow(x + r * stride, by, codes + 128 * r, channels);
    }
    if (tokens == 128 && channels == 128) {
      cpu::transpose_bytes(codes.data(), &args.t.values(first, band.begin), args.t.values.stride(0));
    } else {
      cpu::room<Element, 128 * 128> transposed;
      for (index_t r = 0; r < 128; ++r)  // what no number gave a code
        std::fill(codes + 128 * r + (r < tokens ? channels : 0), codes + 128 * (r + 1), Element());
      cpu::transpose_bytes(codes.data(), transposed.data(), 128);
      for (index_t c = 0; c < channels; ++c)
        std::copy_n(transposed + 128 * c, tokens, &args.t.values(first + c, band.begin));
    }
    return by.scales[channels - 1];
  }
};

}  // namespace dsv3::inline DSV3_ABI
