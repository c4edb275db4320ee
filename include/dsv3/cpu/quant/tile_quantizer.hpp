// SPDX-License-Identifier: MIT
// Tile quantisation on the CPU: bands of 128 rows, a strip of columns at a time, which is read from memory
// once.
#pragma once

#include <dsv3/cpu/host/narrow.hpp>
#include <dsv3/cpu/quant/bands.hpp>
#include <dsv3/cpu/quant/row_tiles.hpp>
#include <dsv3/op/quant/tile_quantizer.hpp>

#include <atomic>

namespace dsv3::inline DSV3_ABI {

namespace cpu {

/// `largest` becomes `bits` where those are larger. Which thread comes first makes no difference.
inline void keep_larger(std::atomic<std::uint32_t>& largest, std::uint32_t bits) {
  std::uint32_t seen = largest.load();
  while (seen < bits && !largest.compare_exchange_weak(seen, bits)) {
  }
}

/// The largest magnitude of all live numbers.
template <class From>
float largest_live_magnitude(int threads, const view<const From, 2>& x, const row_groups& groups) {
  std::atomic<std::uint32_t> largest{0};
  parallel_bands(threads, groups, x.extent(0), x.extent(1), 4096,
                 [&](const row_band& band, index_t first, index_t last) {
                   magnitude_of<From> mine = 0;
                   for (index_t r = band.begin; r < band.end; ++r)
                     mine = std::max(mine, largest_magnitude(&x(r, first), last - first));
                   keep_larger(largest, std::bit_cast<std::uint32_t>(magnitude(mine)));
                 });
  return magnitude(largest.load());
}

}  // namespace cpu

template <class From, class Element, class Tile>
struct implementation<op::tile_quantizer<From, Element, Tile>, backend::cpu> {
  using op_type = op::tile_quantizer<From, Element, Tile>;
  using forward_args = typename op_type::forward_args;
  static constexpr float largest = static_cast<float>(number_traits<Element>::max);
  static constexpr bool single_rows = Tile::rows == 1, single_columns = Tile::columns == 1;
  static_assert((single_rows || Tile::rows == 128) && (single_columns || Tile::columns == 128) &&
                    single_rows + single_columns < 2,
                "the CPU's tile quantiser takes tiles of 1x128, 128x1 and 128x128");

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const auto each_strip = [&](index_t width, auto&& body) {
      cpu::parallel_bands(ctx.threads, args.groups, args.x.extent(0), args.x.extent(1), width, body);
    };
    const index_t stretch = cpu::stretch_of(ctx.threads, args.groups, args.x.extent(0), args.x.extent(1));
    if (args.group == scale_group::tensor) {
      const float amax = cpu::largest_live_magnitude(ctx.threads, args.x, args.groups);
      const float scale = tile_scale(amax, largest, args.scales);
      each_strip(stretch, [&](const cpu::row_band& band, index_t first, index_t last) {
        for (index_t c = first; c < last; c += 128) set_scales(args, band, c, std::min(c + 128, last), scale);
        for (index_t r = band.begin; r < band.end; ++r)
          cpu::narrow(&args.x(r, first), cpu::one_scale{scale}, &args.y.values(r, first), last - first);
      });
    } else if (args.group == scale_group::block || (!single_rows && !single_columns)) {
      each_strip(stretch, [&](const cpu::row_band& band, index_t first, index_t last) {
        for (index_t c = first; c < last; c += strip) narrow_blocks(args, band, c, last);
      });
    } else if constexpr (single_rows) {
      each_strip(stretch, [&](const cpu::row_band& band, index_t first, index_t last) {
        for (index_t r = band.begin; r < band.end; ++r) narrow_row(args, r, first, last);
      });
    } else if constexpr (single_columns) {
      each_strip(stretch, [&](const cpu::row_band& band, index_t first, index_t last) {
        for (index_t c = first; c < last; c += strip) narrow_columns(args, band, c, last);
      });
    }
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::dequantize_args& args) {
    const index_t width = cpu::stretch_of(ctx.threads, args.groups, args.y.extent(0), args.y.extent(1));
    cpu::parallel_bands(ctx.threads, args.groups, args.y.extent(0), args.y.extent(1), width,
                        [&](const cpu::row_band& band, index_t first, index_t last) {
                          for (index_t r = band.begin; r < band.end; ++r) widen_row(args, r, first, last);
                        });
  }

 private:
  static void narrow_row(const forward_args& args, index_t row, index_t first, index_t last) {
    for (index_t begin = first; begin < last; begin += cpu::strip_columns)
      cpu::quantize_strip(&args.x(row, begin), std::min(cpu::strip_columns, last - begin), args.scales,
                          &args.y.values(row, begin),
                          [&](index_t tile, float scale) { args.y.scales(row, begin / 128 + tile) = scale; });
  }

  // Columns of a band from `first` on that are read twice, from memory and from the cache: one strip. Reading
  // the next from memory overlaps with the second time.
  static constexpr index_t strip = 128 * index_t{sizeof(From)};  // as measured: wider for wider numbers

  static void narrow_columns(const forward_args& args, const cpu::row_band& band, index_t first,
                             index_t end) {
    cpu::magnitude_of<From> magnitudes[strip] = {};
    cpu::scale_row<strip, From> by;
    const index_t count = std::min(strip, end - first), next = std::min(strip, end - first - count);
    cpu::raise_magnitudes(&args.x(band.begin, first), args.x.stride(0), band.end - band.begin, magnitudes,
                          count);
    by.assign(magnitudes, count, largest, args.scales);
    for (index_t c = 0; c < count; ++c) args.y.scales(band.tile, first + c) = by.scales[c];
    for (index_t r = band.begin; r < band.end; ++r) {
      cpu::prefetch(&args.x(r, first) + count, next);
      cpu::narrow(&args.x(r, first), by, &args.y.values(r, first), count);
    }
  }

  static void narrow_blocks(const forward_args& args, const cpu::row_band& band, index_t first, index_t end) {
    constexpr index_t most = strip / 128;
    cpu::magnitude_of<From> magnitudes[most] = {};
    cpu::scale_row<most> by;
    const index_t count = std::min(strip, end - first), last = first + count;
    for (index_t r = band.begin; r < band.end; ++r)
      for (index_t c = first, i = 0; c < last; c += 128, ++i)
        magnitudes[i] =
            std::max(magnitudes[i], cpu::largest_of_tile(&args.x(r, c), std::min<index_t>(128, last - c)));
    by.assign(magnitudes, ceil_div(count, 128), largest, args.scales);
    for (index_t c = first, i = 0; c < last; c += 128, ++i)
      set_scales(args, band, c, std::min(c + 128, last), by.scales[i]);
    for (index_t r = band.begin; r < band.end; ++r) {
      cpu::prefetch(&args.x(r, first) + count, std::min(strip, end - last));
      cpu::narrow_tiles(&args.x(r, first), by, &args.y.values(r, first), count);
    }
  }

  // The one scale of a band's columns [first, last), which are of one column of tiles, wherever it is stored.
  static void set_scales(const forward_args& args, const cpu::row_band& band, index_t first, index_t last,
                         float scale) {
    const index_t top = single_rows ? band.begin : band.tile, bottom = single_rows ? band.end : band.tile + 1;
    const index_t left = single_columns ? first : first / 128, right = single_columns ? last : left + 1;
    for (index_t i = top; i < bottom; ++i)
      for (index_t j = left; j < right; ++j) args.y.scales(i, j) = scale;
  }

  static void widen_row(const typename op_type::dequantize_args& args, index_t row, index_t first,
                        index_t last) {
    float scales[128];
    for (index_t c = first; c < last; c += 128) {
      const index_t count = std::min<index_t>(128, last - c);
      if constexpr (single_columns) {
        for (index_t i = 0; i < count; ++i) scales[i] = args.x.scale_of(row, c + i);
        cpu::widen(&args.x.values(row, c), scales, &args.y(row, c), count);
      } else {
        cpu::widen(&args.x.values(row, c), args.x.scale_of(row, c), &args.y(row, c), count);
      }
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI
