// SPDX-License-Identifier: MIT
// E5M6: twelve bits, an IEEE half without its four low mantissa bits; eight values in three words.
#pragma once

#include <dsv3/base/config.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

/// 5 exponent bits (bias 15), 6 mantissa bits: what the report keeps of the attention's output for backward
/// (section 3.3.3). Finite values up to 65024, smallest 2^-20.
struct e5m6 {
  static constexpr float largest = 65024;
  std::uint16_t bits = 0;  // the low twelve

  constexpr e5m6() = default;
  /// To nearest, ties to even; larger magnitudes and infinities become 65024, NaN stays NaN.
  DSV3_HOST_DEVICE constexpr explicit e5m6(float value) : bits(round(value)) {}

  DSV3_HOST_DEVICE constexpr operator float() const {
    const std::uint32_t magnitude = bits & 0x7FFu;
    const float small = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-20f;
    const auto normal = __builtin_bit_cast(float, (magnitude << 17) + (112u << 23));
    const float finite = magnitude < 0x40u ? small : normal;
    const std::uint32_t special = 0x7F800000u | (magnitude & 0x3Fu) << 17;
    const std::uint32_t value = magnitude >= 0x7C0u ? special : __builtin_bit_cast(std::uint32_t, finite);
    return __builtin_bit_cast(float, value | (bits & 0x800u) << 20);
  }
  DSV3_HOST_DEVICE static constexpr e5m6 from_bits(std::uint16_t pattern) {
    e5m6 result;
    result.bits = pattern;
    return result;
  }

 private:
  // As for the 8-bit formats (number/fp8.hpp): round at the mantissa's cut, or on the subnormal grid of
  // 2^-20.
  DSV3_HOST_DEVICE static constexpr std::uint16_t round(float value) {
    const auto pattern = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t magnitude = pattern & 0x7FFFFFFFu, sign = (pattern >> 20) & 0x800u;
    const std::uint32_t normal = ((magnitude + 0xFFFFu + ((magnitude >> 17) & 1u)) >> 17) - (112u << 6);
    const float small = __builtin_bit_cast(float, magnitude) + 8.0f;
    const std::uint32_t subnormal = __builtin_bit_cast(std::uint32_t, small) - 0x41000000u;
    const std::uint32_t rounded = magnitude < 0x38800000u ? subnormal : normal;
    const std::uint32_t finite = rounded > 0x7BFu ? 0x7BFu : rounded;
    return static_cast<std::uint16_t>((magnitude > 0x7F800000u ? 0x7E0u : finite) | sign);
  }
};

/// Eight values in twelve bytes, value 0 in the top bits of the first word.
struct e5m6x8 {
  std::uint32_t words[3] = {};

  DSV3_HOST_DEVICE static constexpr e5m6x8 pack(const e5m6 (&v)[8]) {
    return {{static_cast<std::uint32_t>(v[0].bits) << 20 | static_cast<std::uint32_t>(v[1].bits) << 8 |
                 static_cast<std::uint32_t>(v[2].bits) >> 4,
             static_cast<std::uint32_t>(v[2].bits) << 28 | static_cast<std::uint32_t>(v[3].bits) << 16 |
                 static_cast<std::uint32_t>(v[4].bits) << 4 | static_cast<std::uint32_t>(v[5].bits) >> 8,
             static_cast<std::uint32_t>(v[5].bits) << 24 | static_cast<std::uint32_t>(v[6].bits) << 12 |
                 static_cast<std::uint32_t>(v[7].bits)}};
  }
  DSV3_HOST_DEVICE constexpr void unpack(e5m6 (&v)[8]) const {
    const std::uint32_t codes[8] = {words[0] >> 20, words[0] >> 8, words[0] << 4 | words[1] >> 28,
                                    words[1] >> 16, words[1] >> 4, words[1] << 8 | words[2] >> 24,
                                    words[2] >> 12, words[2]};
    for (int i = 0; i < 8; ++i) v[i] = e5m6::from_bits(static_cast<std::uint16_t>(codes[i] & 0xFFFu));
  }
};

static_assert(sizeof(e5m6x8) == 12);

}  // namespace dsv3::inline DSV3_ABI
