// SPDX-License-Identifier: MIT
// Activations to fewer bytes and back on the CPU, a stretch of 128 at a time.
#pragma once

#include <dsv3/cpu/quant/live_rows.hpp>
#include <dsv3/cpu/quant/row_tiles.hpp>
#include <dsv3/op/quant/stored_rows.hpp>

#include <algorithm>
#include <cstring>

namespace dsv3::inline DSV3_ABI {

namespace cpu {

/// Up to 128 codes of a row as the bytes that stored rows keep of them.
template <class Code>
struct code_bytes;

template <>
struct code_bytes<fp8_e4m3> {
  static constexpr index_t per_tile = 128;
  static void write(const float* x, index_t count, float scale, std::uint8_t* bytes) {
    DSV3_SIMD
    for (index_t i = 0; i < count; ++i) bytes[i] = fp8_e4m3(x[i] / scale).bits;
  }
  static void read(const std::uint8_t* bytes, index_t count, float scale, float* x) {
    DSV3_SIMD
    for (index_t i = 0; i < count; ++i) x[i] = float(fp8_e4m3::from_bits(bytes[i])) * scale;
  }
};

template <>
struct code_bytes<e5m6> {
  static constexpr index_t per_tile = 192;
  static void write(const float* x, index_t count, float scale, std::uint8_t* bytes) {
    std::uint16_t codes[128] = {};  // the last of eight are zero
    DSV3_SIMD
    for (index_t i = 0; i < count; ++i) codes[i] = e5m6(x[i] / scale).bits;
    for (index_t i = 0; i < count; i += 8, bytes += 12) {
      e5m6 eight[8];
      for (int v = 0; v < 8; ++v) eight[v].bits = codes[i + v];
      const e5m6x8 packed = e5m6x8::pack(eight);
      std::memcpy(bytes, packed.words, sizeof(packed.words));
    }
  }
  static void read(const std::uint8_t* bytes, index_t count, float scale, float* x) {
    std::uint16_t codes[128];
    for (index_t i = 0; i < count; i += 8, bytes += 12) {
      e5m6x8 packed;
      std::memcpy(packed.words, bytes, sizeof(packed.words));
      e5m6 eight[8];
      packed.unpack(eight);
      for (int v = 0; v < 8; ++v) codes[i + v] = eight[v].bits;
    }
    DSV3_SIMD
    for (index_t i = 0; i < count; ++i) x[i] = float(e5m6::from_bits(codes[i])) * scale;
  }
};

}  // namespace cpu

template <class P>
struct implementation<op::stored_rows<P>, backend::cpu> {
  using store_args = typename op::stored_rows<P>::store_args;
  using load_args = typename op::stored_rows<P>::load_args;

  template <class Ctx>
  static void run(Ctx& ctx, const store_args& args) {
    const index_t columns = args.x.extent(1);
    each_row(ctx, args, columns, args.y.config.format, [&]<class Code>(Code, index_t row) {
      const activation<P>* x = args.x[row].data();
      std::uint8_t* bytes = args.y.bytes[row].data();
      if constexpr (std::is_same_v<Code, bf16>)
        store_row(x, columns, bytes);
      else
        store_row<Code>(x, columns, args.scales, bytes, args.y.scales[row].data());
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const load_args& args) {
    const index_t columns = args.y.extent(1);
    each_row(ctx, args, columns, args.x.config.format, [&]<class Code>(Code, index_t row) {
      activation<P>* y = args.y[row].data();
      const std::uint8_t* bytes = args.x.bytes[row].data();
      if constexpr (std::is_same_v<Code, bf16>)
        load_row(bytes, columns, y);
      else
        load_row<Code>(bytes, args.x.scales[row].data(), columns, y);
    });
  }

 private:
  static constexpr index_t tile = 128;

  // body(a code of the format, row); the format is asked for once.
  template <class Ctx, class Args, class Body>
  static void each_row(Ctx& ctx, const Args& args, index_t columns, stored_format format, Body&& body) {
    const auto with = [&](auto code) {
      cpu::each_live_row(ctx.threads, args.groups, columns > 0 ? rows_of(args) : 0, columns,
                         [&](index_t, index_t row) { body(code, row); });
    };
    switch (format) {
      case stored_format::bf16:
        return with(bf16{});
      case stored_format::e4m3:
        return with(fp8_e4m3{});
      case stored_format::e5m6:
        return with(e5m6{});
    }
  }
  static index_t rows_of(const store_args& args) { return args.x.extent(0); }
  static index_t rows_of(const load_args& args) { return args.y.extent(0); }

  static void store_row(const activation<P>* x, index_t columns, std::uint8_t* bytes) {
    for (index_t first = 0; first < columns; first += tile) {
      const index_t count = std::min(tile, columns - first);
      std::uint16_t codes[tile];
      DSV3_SIMD
      for (index_t i = 0; i < count; ++i) codes[i] = bf16(x[first + i]).bits;
      std::memcpy(bytes + 2 * first, codes, static_cast<std::size_t>(2 * count));
    }
  }
  static void load_row(const std::uint8_t* bytes, index_t columns, activation<P>* y) {
    for (index_t first = 0; first < columns; first += tile) {
      const index_t count = std::min(tile, columns - first);
      std::uint16_t codes[tile];
      std::memcpy(codes, bytes + 2 * first, static_cast<std::size_t>(2 * count));
      DSV3_SIMD
      for (index_t i = 0; i < count; ++i) y[first + i] = activation<P>(float(bf16::from_bits(codes[i])));
    }
  }

  template <class Code>
  static void store_row(const activation<P>* x, index_t columns, scale_kind kind, std::uint8_t* bytes,
                        float* scales) {
    for (index_t first = 0; first < columns; first += tile, bytes += cpu::code_bytes<Code>::per_tile) {
      const index_t count = std::min(tile, columns - first);
      float wide[tile];
      const float scale = tile_scale(cpu::widen_tile(x + first, count, wide), Code::largest, kind);
      cpu::code_bytes<Code>::write(wide, count, scale, bytes);
      *scales++ = scale;
    }
  }
  template <class Code>
  static void load_row(const std::uint8_t* bytes, const float* scales, index_t columns, activation<P>* y) {
    for (index_t first = 0; first < columns; first += tile, bytes += cpu::code_bytes<Code>::per_tile) {
      const index_t count = std::min(tile, columns - first);
      float wide[tile];
      cpu::code_bytes<Code>::read(bytes, count, *scales++, wide);
      DSV3_SIMD
      for (index_t i = 0; i < count; ++i) y[first + i] = activation<P>(wide[i]);
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI
