// SPDX-License-Identifier: MIT
// E5M6: twelve bits, an IEEE half without its four low mantissa bits; eight values in three words.
#pragma once

#include <dsv3/number/narrow_float.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// 5 exponent bits (bias 15), 6 mantissa bits: what the report keeps of the attention's output for backward
/// (section 3.3.3). Finite values up to 65024, smallest 2^-20.
struct e5m6 {
  static constexpr float largest = 65024;
  std::uint16_t bits = 0;  // the low twelve

  constexpr e5m6() = default;
  /// To nearest, ties to even; larger magnitudes and infinities become 65024, NaN stays NaN.
  DSV3_HOST_DEVICE constexpr explicit e5m6(float value)
      : bits(static_cast<std::uint16_t>(format::round(value, 0x7BFu, 0x7FFu))) {}

  // Assigns the bits: compilers vectorise that, but not the copy of a class.
  constexpr e5m6(const e5m6&) = default;
  constexpr e5m6& operator=(const e5m6&) = default;
  template <std::same_as<e5m6> Same>
  DSV3_HOST_DEVICE constexpr e5m6& operator=(Same&& other) {
    bits = other.bits;
    return *this;
  }

  DSV3_HOST_DEVICE constexpr operator float() const {
    const std::uint32_t magnitude = bits & 0x7FFu;
    const std::uint32_t special =
        format::where(magnitude >= 0x7C0u, 0x7F800000u) | format::where(magnitude > 0x7C0u, 0x400000u);
    return __builtin_bit_cast(float, format::widen(bits) | special);
  }
  DSV3_HOST_DEVICE static constexpr e5m6 from_bits(std::uint16_t pattern) {
    e5m6 result;
    result.bits = pattern;
    return result;
  }

 private:
  using format = detail::narrow_float<5, 6>;
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

static_assert(std::is_trivially_copyable_v<e5m6> && sizeof(e5m6) == 2);
static_assert(sizeof(e5m6x8) == 12);

}  // namespace dsv3::inline DSV3_ABI
