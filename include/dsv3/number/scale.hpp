// SPDX-License-Identifier: MIT
// The scale of a tile of narrow values, and its 8-bit storage.
#pragma once

#include <dsv3/base/config.hpp>

#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// real               amax / largest: the largest value of a tile becomes the format's largest
/// power_of_two       rounded up to a power of two: tiles can be cut anew without rounding a second time
/// power_of_two_down  rounded down: one more bit of the range is used, values above the largest saturate
enum class scale_kind { real, power_of_two, power_of_two_down };

/// A tile of smaller values gets the scale of this one: no scale is zero.
inline constexpr float smallest_amax = 1e-4f;

/// A positive power of two or infinity, from a positive float: the exponent alone, or the next one.
DSV3_HOST_DEVICE constexpr float power_of_two_up(float x) {
  const auto pattern = __builtin_bit_cast(std::uint32_t, x);
  return __builtin_bit_cast(float, (pattern + 0x7FFFFFu) & 0x7F800000u);
}
DSV3_HOST_DEVICE constexpr float power_of_two_down(float x) {
  return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, x) & 0x7F800000u);
}

/// What codes of a tile are multiplied by: its largest magnitude `amax` over the format's `largest` value. An
/// infinite amax gives an infinite scale, and so NaN where the infinity was.
DSV3_HOST_DEVICE constexpr float tile_scale(float amax, float largest, scale_kind kind) {
  const float real = (amax > smallest_amax ? amax : smallest_amax) / largest;
  if (kind == scale_kind::real) return real;
  return kind == scale_kind::power_of_two ? power_of_two_up(real) : power_of_two_down(real);
}

/// An exponent and nothing else: 2^(bits - 127).
struct ue8m0 {
  std::uint8_t bits = 127;

  constexpr ue8m0() = default;
  /// The next power of two at or above a positive float, within 2^-126 .. 2^127.
  DSV3_HOST_DEVICE constexpr explicit ue8m0(float scale) {
    const auto pattern = __builtin_bit_cast(std::uint32_t, scale);
    const std::uint32_t exponent = (pattern >> 23 & 255u) + ((pattern & 0x7FFFFFu) != 0 ? 1u : 0u);
    bits = static_cast<std::uint8_t>(exponent < 1u ? 1u : exponent > 254u ? 254u : exponent);
  }

  DSV3_HOST_DEVICE constexpr operator float() const {
    return __builtin_bit_cast(float, bits == 0 ? 0x400000u : static_cast<std::uint32_t>(bits) << 23);
  }
  DSV3_HOST_DEVICE static constexpr ue8m0 from_bits(std::uint8_t pattern) {
    ue8m0 result;
    result.bits = pattern;
    return result;
  }
};

static_assert(std::is_trivially_copyable_v<ue8m0> && sizeof(ue8m0) == 1);

}  // namespace dsv3::inline DSV3_ABI
