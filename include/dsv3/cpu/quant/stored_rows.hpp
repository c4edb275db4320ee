// SPDX-License-Identifier: MIT
// Activations to fewer bytes and back on the CPU, a strip of a row at a time.
#pragma once

#include <dsv3/cpu/quant/row_tiles.hpp>
#include <dsv3/cpu/quant/twelve_bits.hpp>
#include <dsv3/op/quant/stored_rows.hpp>

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::stored_rows<P>, backend::cpu> {
  using store_args = typename op::stored_rows<P>::store_args;
  using load_args = typename op::stored_rows<P>::load_args;

  template <class Ctx>
  static void run(Ctx& ctx, const store_args& args) {
    each_strip(ctx, args.groups, args.y, [&](auto code, index_t row, index_t first, index_t count) {
      store_strip(&args.x(row, first), count, args.scales, code, bytes_at(args.y, row, first),
                  scales_at(args.y, row, first));
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const load_args& args) {
    each_strip(ctx, args.groups, args.x, [&](auto code, index_t row, index_t first, index_t count) {
      load_strip(bytes_at(args.x, row, first), scales_at(args.x, row, first), code, count,
                 &args.y(row, first));
    });
  }

 private:
  // body(zero of the format's type, row, first column, columns) for all live rows.
  template <class Ctx, class Narrow, class Body>
  static void each_strip(Ctx& ctx, const row_groups& groups, const Narrow& narrow, Body&& body) {
    const auto with = [&](auto code) {
      const auto& [rows, columns, format] = narrow.config;
      cpu::parallel_strips(ctx.threads, groups, rows, columns,
                           [&](index_t row, index_t first, index_t count) { body(code, row, first, count); });
    };
    switch (narrow.config.format) {
      case stored_format::bf16:
        return with(bf16{});
      case stored_format::e4m3:
        return with(fp8_e4m3{});
      case stored_format::e5m6:
        return with(e5m6{});
    }
  }

  // A strip begins where its columns alone would end.
  template <class Narrow>
  static auto* bytes_at(const Narrow& narrow, index_t row, index_t first) {
    return narrow.bytes[row].data() + narrow_rows_config{1, first, narrow.config.format}.row_bytes();
  }
  template <class Narrow>
  static auto* scales_at(const Narrow& narrow, index_t row, index_t first) {
    return narrow.scales[row].data() + first / 128;
  }

  static void store_strip(const activation<P>* x, index_t count, scale_kind, bf16, std::uint8_t* bytes,
                          float*) {
    if constexpr (std::is_same_v<activation<P>, bf16>) {
      std::memcpy(bytes, x, static_cast<std::size_t>(2 * count));
    } else {
      cpu::room<bf16, cpu::strip_columns> strip;
      bf16* y = strip;
      DSV3_SIMD
      for (index_t i = 0; i < count; ++i) y[i] = bf16(x[i]);
      std::memcpy(bytes, strip.data(), static_cast<std::size_t>(2 * count));
    }
  }
  static void load_strip(const std::uint8_t* bytes, const float*, bf16, index_t count, activation<P>* y) {
    if constexpr (std::is_same_v<activation<P>, bf16>) {
      std::memcpy(static_cast<void*>(y), bytes, static_cast<std::size_t>(2 * count));
    } else {
      cpu::room<bf16, cpu::strip_columns> strip;
      std::memcpy(static_cast<void*>(strip.data()), bytes, static_cast<std::size_t>(2 * count));
      cpu::widen(strip.data(), 1.0f, y, count);
    }
  }

  static void store_strip(const activation<P>* x, index_t count, scale_kind kind, fp8_e4m3,
                          std::uint8_t* bytes, float* scales) {
    cpu::quantize_strip(x, count, kind, reinterpret_cast<fp8_e4m3*>(bytes),
                        [&](index_t tile, float scale) { scales[tile] = scale; });
  }
  static void load_strip(const std::uint8_t* bytes, const float* scales, fp8_e4m3, index_t count,
                         activation<P>* y) {
    widen_tiles(reinterpret_cast<const fp8_e4m3*>(bytes), scales, count, y);
  }

  static void store_strip(const activation<P>* x, index_t count, scale_kind kind, e5m6, std::uint8_t* bytes,
                          float* scales) {
    cpu::room<e5m6, cpu::strip_columns> strip;
    cpu::quantize_strip(x, count, kind, strip.data(),
                        [&](index_t tile, float scale) { scales[tile] = scale; });
    cpu::pack_twelve_bits(strip.data(), count, bytes);
  }
  static void load_strip(const std::uint8_t* bytes, const float* scales, e5m6, index_t count,
                         activation<P>* y) {
    cpu::room<e5m6, cpu::strip_columns> strip;
    cpu::unpack_twelve_bits(bytes, count, strip.data());
    widen_tiles(strip.data(), scales, count, y);
  }

  template <class Code>
  static void widen_tiles(const Code* codes, const float* scales, index_t count, activation<P>* y) {
    for (index_t c = 0; c < count; c += 128)
      cpu::widen(codes + c, scales[c / 128], y + c, std::min<index_t>(128, count - c));
  }
};

}  // namespace dsv3::inline DSV3_ABI
