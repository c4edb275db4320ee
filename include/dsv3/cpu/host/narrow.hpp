// SPDX-License-Identifier: MIT
// Rows of numbers to narrow formats and back, in loops that compilers vectorise for whatever processor they
// build for; where the processor has AVX-512, by its instructions. All of them give the same bits.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/cpu/host/magnitudes_avx512.hpp>
#include <dsv3/cpu/host/narrow_avx512.hpp>
#include <dsv3/cpu/host/tile_scales.hpp>
#include <dsv3/cpu/host/transpose_avx512.hpp>
#include <dsv3/cpu/host/widen_avx512.hpp>
#include <dsv3/number/scale.hpp>
#include <dsv3/number/traits.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

namespace dsv3::inline DSV3_ABI::cpu {

/// The largest magnitude of a row.
template <class From>
magnitude_of<From> largest_magnitude(const From* x, index_t count) {
  magnitude_of<From> largest = 0;
  DSV3_SIMD_MAX(largest)
  for (index_t i = 0; i < count; ++i) {
    const auto bits = magnitude_bits(x[i]);
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

#if DSV3_AVX512
template <class From>
inline constexpr bool takes_magnitudes = std::is_same_v<From, float> || std::is_same_v<From, bf16>;
#endif

/// The same of a tile, up to 128 numbers.
template <class From>
DSV3_FORCE_INLINE magnitude_of<From> largest_of_tile(const From* x, index_t count) {
#if DSV3_AVX512
  if constexpr (takes_magnitudes<From>)
    if (count == 128) {
      const magnitude_of<From> largest = avx512::largest_of_tile(x);
      if (magnitude(largest) == magnitude(largest)) return largest;  // no NaN among them
    }
#endif
  return largest_magnitude(x, count);
}

/// largest[c] becomes the largest magnitude of column c where that is larger.
template <class From>
void raise_magnitudes(const From* x, index_t stride, index_t rows, magnitude_of<From>* largest,
                      index_t count) {
  index_t done = 0;
#if DSV3_AVX512
  if constexpr (takes_magnitudes<From>) done = avx512::largest_of_columns(x, stride, rows, largest, count);
#endif
  for (index_t r = 0; r < rows; ++r) {
    DSV3_SIMD
    for (index_t c = done; c < count; ++c) {
      const auto bits = magnitude_bits(x[r * stride + c]);
      largest[c] = bits > largest[c] ? bits : largest[c];
    }
  }
}

/// y = Element(x / scale). Scales is one_scale or a scale_row.
template <class From, class Scales, class Element>
void narrow(const From* x, const Scales& by, Element* y, index_t count) {
  const auto divide = [&](index_t first, index_t last) {
    DSV3_SIMD
    for (index_t i = first; i < last; ++i) y[i] = Element(static_cast<float>(x[i]) / by(i));
  };
  index_t done = 0;
#if DSV3_AVX512
  if constexpr (avx512::takes<From, Element>) {
    const auto divide_32 = [&](index_t i) { divide(i, i + 32); };
    done = by.exact ? avx512::narrow<true>(x, y, count, by, divide_32)
                    : avx512::narrow<false>(x, y, count, by, divide_32);
  }
#endif
  divide(done, count);
}
/// The same with a scale for each 128 numbers.
template <class From, index_t capacity, class Element>
void narrow_tiles(const From* x, const scale_row<capacity>& by, Element* y, index_t count) {
  index_t done = 0;
#if DSV3_AVX512
  if constexpr (avx512::takes<From, Element>) {
    const auto divide_32 = [&](index_t i) {
      const float scale = by(i / 128);
      DSV3_SIMD
      for (index_t k = i; k < i + 32; ++k) y[k] = Element(static_cast<float>(x[k]) / scale);
    };
    done = count / 128;
    if (by.exact)
      avx512::narrow_tiles<true>(x, y, done, by, divide_32);
    else
      avx512::narrow_tiles<false>(x, y, done, by, divide_32);
  }
#endif
  for (index_t tile = done, c = 128 * done; c < count; ++tile, c += 128)
    narrow(x + c, by.tile(tile), y + c, std::min<index_t>(128, count - c));
}

namespace detail {

template <class Element, class Scales, class ScaleAt, class To>
DSV3_FORCE_INLINE void widen(const Element* x, [[maybe_unused]] Scales scales, const ScaleAt& scale_at, To* y,
                             index_t count) {
  index_t done = 0;
#if DSV3_AVX512
  if constexpr (avx512::takes<To, Element>)
    done = avx512::widen(x, scales, y, count, [&](index_t i) {
      DSV3_SIMD
      for (index_t k = i; k < i + 32; ++k) y[k] = To(static_cast<float>(x[k]) * scale_at(k));
    });
#endif
  DSV3_SIMD
  for (index_t i = done; i < count; ++i) y[i] = To(static_cast<float>(x[i]) * scale_at(i));
}

}  // namespace detail

/// y = x · scale, a product of floats, then rounded to To
template <class Element, class To>
void widen(const Element* x, float scale, To* y, index_t count) {
  detail::widen(
      x, scale, [&](index_t) { return scale; }, y, count);
}
template <class Element, class To>
void widen(const Element* x, const float* scales, To* y, index_t count) {
  detail::widen(
      x, scales, [&](index_t i) { return scales[i]; }, y, count);
}

/// Asks for a stretch of memory before it is read.
template <class T>
void prefetch(const T* from, index_t count) {
  constexpr index_t line = 64 / index_t{sizeof(T)};
  for (index_t i = 0; i < count; i += line) __builtin_prefetch(from + i);
}

/// to[c · stride + r] = from[128 · r + c], of bytes; `from` stands on a cache line.
template <class Byte>
void transpose_bytes(const Byte* from, Byte* to, index_t stride) {
  static_assert(sizeof(Byte) == 1 && std::endian::native == std::endian::little);
#if DSV3_AVX512
  avx512::transpose_bytes(static_cast<const void*>(from), static_cast<void*>(to), stride);
#else
  for (index_t row = 0; row < 128; row += 8) {
    // Eight rows as words of eight bytes. Exchanging halves, quarters and eighths of words between rows
    // transposes the 8x8 bytes of each column of words; the loop runs over such columns.
    std::uint64_t words[8][16];
    std::memcpy(words, from + 128 * row, sizeof(words));
    const auto exchange = [&](int distance, std::uint64_t low) {
      for (int r = 0; r < 8; ++r) {
        if ((r & distance) != 0) continue;
        std::uint64_t *a = words[r], *b = words[r + distance];
        DSV3_SIMD
        for (int c = 0; c < 16; ++c) {
          const std::uint64_t crossing = ((a[c] >> (8 * distance)) ^ b[c]) & low;
          b[c] ^= crossing;
          a[c] ^= crossing << (8 * distance);
        }
      }
    };
    exchange(4, 0x00000000FFFFFFFFu);
    exchange(2, 0x0000FFFF0000FFFFu);
    exchange(1, 0x00FF00FF00FF00FFu);
    for (int c = 0; c < 16; ++c)
      for (int r = 0; r < 8; ++r)
        std::memcpy(static_cast<void*>(to + (8 * c + r) * stride + row), &words[r][c], 8);
  }
#endif
}

}  // namespace dsv3::inline DSV3_ABI::cpu
