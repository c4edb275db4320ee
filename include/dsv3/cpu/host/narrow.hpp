// SPDX-License-Identifier: MIT
// Rows of numbers to narrow formats and back, in loops that compilers vectorise for whatever processor they
// build for; without vectors the same loops give the same bits.
#pragma once

#include <dsv3/base/index.hpp>
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

/// y = Element(x / scale)
template <class From, class Element>
void narrow(const From* x, float scale, Element* y, index_t count) {
  DSV3_SIMD
  for (index_t i = 0; i < count; ++i) y[i] = Element(static_cast<float>(x[i]) / scale);
}
/// The same with a scale for each number.
template <class From, class Element>
void narrow(const From* x, const float* scales, Element* y, index_t count) {
  DSV3_SIMD
  for (index_t i = 0; i < count; ++i) y[i] = Element(static_cast<float>(x[i]) / scales[i]);
}

/// y = x · scale, rounded once
template <class Element, class To>
void widen(const Element* x, float scale, To* y, index_t count) {
  DSV3_SIMD
  for (index_t i = 0; i < count; ++i) y[i] = To(static_cast<float>(x[i]) * scale);
}
template <class Element, class To>
void widen(const Element* x, const float* scales, To* y, index_t count) {
  DSV3_SIMD
  for (index_t i = 0; i < count; ++i) y[i] = To(static_cast<float>(x[i]) * scales[i]);
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
