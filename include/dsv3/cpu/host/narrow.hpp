// SPDX-License-Identifier: MIT
// Rows of numbers to narrow formats and back, in loops that compilers vectorise for whatever processor they
// build for; where the processor has AVX-512, by its instructions. All of them give the same bits.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/cpu/host/narrow_avx512.hpp>
#include <dsv3/number/scale.hpp>
#include <dsv3/number/traits.hpp>

#include <bit>
#include <cstdint>
#include <cstring>

namespace dsv3::inline DSV3_ABI::cpu {

/// The bits of a number without its sign: as whole numbers they are ordered as the magnitudes are. NaN is
/// zero here, so that a NaN does not decide about the scale of its neighbours.
DSV3_FORCE_INLINE std::uint32_t magnitude_bits(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x) & 0x7FFFFFFFu;
  return bits > 0x7F800000u ? 0u : bits;
}
DSV3_FORCE_INLINE std::uint32_t magnitude_bits(double x) { return magnitude_bits(static_cast<float>(x)); }
DSV3_FORCE_INLINE std::uint16_t magnitude_bits(bf16 x) {
  const auto bits = static_cast<std::uint16_t>(x.bits & 0x7FFFu);
  return bits > 0x7F80u ? std::uint16_t{0} : bits;
}
DSV3_FORCE_INLINE float magnitude(std::uint32_t bits) { return std::bit_cast<float>(bits); }
DSV3_FORCE_INLINE float magnitude(std::uint16_t bits) { return bf16::from_bits(bits); }

template <class From>
using magnitude_of = decltype(magnitude_bits(From()));

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

/// largest[i] becomes the magnitude of x[i] where that is larger.
template <class From>
void raise_magnitudes(const From* x, magnitude_of<From>* largest, index_t count) {
  DSV3_SIMD
  for (index_t i = 0; i < count; ++i) {
    const auto bits = magnitude_bits(x[i]);
    largest[i] = bits > largest[i] ? bits : largest[i];
  }
}

/// What `narrow` may multiply by where that gives the bits of the division: NaN where it would not.
DSV3_FORCE_INLINE float reciprocal(float scale) {
  const bool outside = !(scale >= 0x1p-100f) || !(scale <= 0x1p100f);
  const std::uint32_t nan = (0u - static_cast<std::uint32_t>(outside)) & 0x7FC00000u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(1.0f / scale) | nan);
}
DSV3_FORCE_INLINE bool power_of_two(float scale) { return power_of_two_down(scale) == scale; }

/// y = Element(x / scale)
template <class From, class Element>
void narrow(const From* x, float scale, Element* y, index_t count) {
  const auto divide = [&](index_t first, index_t last) {
    DSV3_SIMD
    for (index_t i = first; i < last; ++i) y[i] = Element(static_cast<float>(x[i]) / scale);
  };
  index_t done = 0;
#if DSV3_AVX512
  if constexpr (avx512::takes<From, Element>) {
    const auto multiplier = [factor = _mm512_set1_ps(reciprocal(scale))](index_t) { return factor; };
    const auto divide_32 = [&](index_t i) { divide(i, i + 32); };
    done = power_of_two(scale) ? avx512::narrow<true>(x, y, count, multiplier, divide_32)
                               : avx512::narrow<false>(x, y, count, multiplier, divide_32);
  }
#endif
  divide(done, count);
}

/// Up to `capacity` scales, one for each of the numbers that they divide.
template <index_t capacity>
struct scale_row {
  float scales[capacity], reciprocals[capacity];
  bool powers_of_two = true;

  /// Those of tiles whose largest magnitudes have these bits.
  template <class Bits>
  void assign(const Bits* magnitudes, index_t count, float largest, scale_kind kind) {
    std::uint32_t mantissas = 0;
    DSV3_SIMD
    for (index_t i = 0; i < count; ++i) scales[i] = tile_scale(magnitude(magnitudes[i]), largest, kind);
    for (index_t i = 0; i < count; ++i) {
      reciprocals[i] = reciprocal(scales[i]);
      mantissas |= std::bit_cast<std::uint32_t>(scales[i]) & 0x7FFFFFu;
    }
    powers_of_two = mantissas == 0;
  }
};
template <index_t capacity, class From, class Element>
void narrow(const From* x, const scale_row<capacity>& by, Element* y, index_t count) {
  const auto divide = [&](index_t first, index_t last) {
    DSV3_SIMD
    for (index_t i = first; i < last; ++i) y[i] = Element(static_cast<float>(x[i]) / by.scales[i]);
  };
  index_t done = 0;
#if DSV3_AVX512
  if constexpr (avx512::takes<From, Element>) {
    const auto multiplier = [&](index_t i) { return avx512::load_floats(by.reciprocals + i); };
    const auto divide_32 = [&](index_t i) { divide(i, i + 32); };
    done = by.powers_of_two ? avx512::narrow<true>(x, y, count, multiplier, divide_32)
                            : avx512::narrow<false>(x, y, count, multiplier, divide_32);
  }
#endif
  divide(done, count);
}

/// y = x · scale, a product of floats, then rounded to To
template <class Element, class To>
void widen(const Element* x, float scale, To* y, index_t count) {
  index_t done = 0;
#if DSV3_AVX512
  if constexpr (avx512::takes<To, Element>) done = avx512::widen(x, scale, y, count);
#endif
  DSV3_SIMD
  for (index_t i = done; i < count; ++i) y[i] = To(static_cast<float>(x[i]) * scale);
}
template <class Element, class To>
void widen(const Element* x, const float* scales, To* y, index_t count) {
  DSV3_SIMD
  for (index_t i = 0; i < count; ++i) y[i] = To(static_cast<float>(x[i]) * scales[i]);
}

/// Asks for a stretch of memory before it is read.
template <class T>
void prefetch(const T* from, index_t count) {
  constexpr index_t line = 64 / index_t{sizeof(T)};
  for (index_t i = 0; i < count; i += line) __builtin_prefetch(from + i);
}

/// to[c][r] = from[r][c], of bytes.
template <class Byte>
void transpose_bytes(const Byte (&from)[128][128], Byte (&to)[128][128]) {
  static_assert(sizeof(Byte) == 1 && std::endian::native == std::endian::little);
  for (index_t row = 0; row < 128; row += 8) {
    // Eight rows as words of eight bytes. Exchanging halves, quarters and eighths of words between rows
    // transposes the 8x8 bytes of each column of words; the loop runs over such columns.
    std::uint64_t words[8][16];
    std::memcpy(words, from[row], sizeof(words));
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
      for (int r = 0; r < 8; ++r) std::memcpy(static_cast<void*>(&to[8 * c + r][row]), &words[r][c], 8);
  }
}

}  // namespace dsv3::inline DSV3_ABI::cpu
