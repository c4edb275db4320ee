// SPDX-License-Identifier: MIT
// Magnitudes of numbers, and the scales of tiles that rows are divided by.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/number/bf16.hpp>
#include <dsv3/number/scale.hpp>

#include <bit>
#include <cstdint>
#include <type_traits>

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

/// What may be multiplied by where that gives the bits of the division: NaN where it would not, which is for
/// scales below 2^-100, from 2^101 on, and those that are no numbers.
DSV3_FORCE_INLINE float reciprocal(float scale) {
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(scale) >> 23;
  const std::uint32_t nan = (0u - static_cast<std::uint32_t>(exponent - 27u > 200u)) & 0x7FC00000u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(1.0f / scale) | nan);
}
/// A power of two that has such a reciprocal: nothing is rounded.
DSV3_FORCE_INLINE bool divides_exactly(float scale) {
  return power_of_two_down(scale) == scale && reciprocal(scale) == reciprocal(scale);
}

/// One scale for all numbers of a row.
struct one_scale {
  float scale, by = reciprocal(scale);
  bool exact = divides_exactly(scale);
  DSV3_FORCE_INLINE float operator()(index_t) const { return scale; }
};

/// Up to `capacity` scales: of tiles of 128, or each of one number of type From.
template <index_t capacity, class From = float>
struct scale_row {
  float scales[capacity], reciprocals[capacity];  // the latter where place() says
  std::uint16_t uppers[capacity];                 // the upper halves of scales
  bool exact = true;

  /// Vectors take numbers of bf16 apart into those at even and those at odd places of every 32.
  static constexpr index_t place(index_t i) {
    if constexpr (std::is_same_v<From, bf16>)
      return i / 32 * 32 + i % 2 * 16 + i % 32 / 2;
    else
      return i;
  }
  static_assert(!std::is_same_v<From, bf16> || capacity % 32 == 0);

  /// Those of tiles whose largest magnitudes have these bits.
  template <class Bits>
  void assign(const Bits* magnitudes, index_t count, float largest, scale_kind kind) {
    switch (kind) {
      case scale_kind::real:
        return assign<scale_kind::real>(magnitudes, count, largest);
      case scale_kind::power_of_two:
        return assign<scale_kind::power_of_two>(magnitudes, count, largest);
      case scale_kind::power_of_two_down:
        return assign<scale_kind::power_of_two_down>(magnitudes, count, largest);
    }
  }
  DSV3_FORCE_INLINE float operator()(index_t i) const { return scales[i]; }
  /// The scale of one tile.
  DSV3_FORCE_INLINE one_scale tile(index_t i) const { return {scales[i], reciprocals[place(i)], exact}; }

 private:
  template <scale_kind kind, class Bits>
  void assign(const Bits* magnitudes, index_t count, float largest) {
    float by[capacity];
    DSV3_SIMD
    for (index_t i = 0; i < count; ++i) {
      scales[i] = tile_scale(magnitude(magnitudes[i]), largest, kind);
      by[i] = reciprocal(scales[i]);
    }
    std::uint32_t mantissas = 0;  // a NaN has one
    for (index_t i = 0; i < count; ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(scales[i]);
      mantissas |= (bits | std::bit_cast<std::uint32_t>(by[i])) & 0x7FFFFFu;
      uppers[i] = static_cast<std::uint16_t>(bits >> 16);
    }
    for (index_t i = 0; i < count; ++i) reciprocals[place(i)] = by[i];
    exact = mantissas == 0;
  }
};

}  // namespace dsv3::inline DSV3_ABI::cpu
