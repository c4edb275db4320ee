// SPDX-License-Identifier: MIT
// The two 8-bit floating-point formats of matrix units; storage only, arithmetic happens in float.
#pragma once

#include <dsv3/base/config.hpp>

#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

namespace detail {

// A sign, `ExponentBits` bits of exponent and `MantissaBits` of mantissa in eight bits. Conversions are free
// of branches, so that loops over them vectorise.
template <int ExponentBits, int MantissaBits>
struct fp8_format {
  static constexpr int bias = (1 << (ExponentBits - 1)) - 1;
  static constexpr int dropped = 23 - MantissaBits;  // bits of a float's mantissa that are rounded away
  // Adding it to a number below the smallest normal one rounds that to the subnormal grid: the grid's step
  // 2^(1 - bias - MantissaBits) is the spacing of floats there.
  static constexpr float grid =
      __builtin_bit_cast(float, static_cast<std::uint32_t>(127 + 23 + 1 - bias - MantissaBits) << 23);
  static constexpr float smallest_normal =
      __builtin_bit_cast(float, static_cast<std::uint32_t>(127 + 1 - bias) << 23);

  // To nearest, ties to even; beyond `largest` becomes `largest`; NaN becomes `nan`.
  DSV3_HOST_DEVICE static constexpr std::uint8_t round(float value, std::uint32_t largest,
                                                       std::uint32_t nan) {
    const auto pattern = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t magnitude = pattern & 0x7FFFFFFFu, sign = (pattern >> 24) & 0x80u;
    const std::uint32_t half = (1u << (dropped - 1)) - 1u + ((magnitude >> dropped) & 1u);
    const std::uint32_t normal =
        ((magnitude + half) >> dropped) - (static_cast<std::uint32_t>(127 - bias) << MantissaBits);
    const float small = __builtin_bit_cast(float, magnitude) + grid;
    const std::uint32_t subnormal =
        __builtin_bit_cast(std::uint32_t, small) - __builtin_bit_cast(std::uint32_t, grid);
    const std::uint32_t rounded =
        magnitude < __builtin_bit_cast(std::uint32_t, smallest_normal) ? subnormal : normal;
    const std::uint32_t finite = rounded > largest ? largest : rounded;
    return static_cast<std::uint8_t>((magnitude > 0x7F800000u ? nan : finite) | sign);
  }

  // The value of a finite code.
  DSV3_HOST_DEVICE static constexpr float widen(std::uint32_t code) {
    const std::uint32_t magnitude = code & 0x7Fu;
    const auto normal =
        __builtin_bit_cast(float, (magnitude << dropped) + (static_cast<std::uint32_t>(127 - bias) << 23));
    const float step = smallest_normal / static_cast<float>(1 << MantissaBits);
    const float value = magnitude < (1u << MantissaBits)
                            ? static_cast<float>(static_cast<std::int32_t>(magnitude)) * step
                            : normal;
    return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, value) | (code & 0x80u) << 24);
  }
};

}  // namespace detail

/// 4 exponent bits (bias 7), 3 mantissa bits, no infinities: finite values up to 448, smallest 2^-9. One type
/// in every translation unit, bit-compatible with the CUDA type.
struct fp8_e4m3 {
  static constexpr float largest = 448;
  std::uint8_t bits = 0;

  constexpr fp8_e4m3() = default;
  /// To nearest, ties to even; larger magnitudes and infinities become 448, NaN stays NaN.
  DSV3_HOST_DEVICE constexpr explicit fp8_e4m3(float value) : bits(format::round(value, 0x7Eu, 0x7Fu)) {}

  DSV3_HOST_DEVICE constexpr operator float() const {
    return (bits & 0x7Fu) == 0x7Fu ? __builtin_bit_cast(float, 0x7FC00000u | (bits & 0x80u) << 24)
                                   : format::widen(bits);
  }
  DSV3_HOST_DEVICE static constexpr fp8_e4m3 from_bits(std::uint8_t pattern) {
    fp8_e4m3 result;
    result.bits = pattern;
    return result;
  }

 private:
  using format = detail::fp8_format<4, 3>;
};

/// 5 exponent bits (bias 15), 2 mantissa bits: finite values up to 57344, smallest 2^-16; has infinities,
/// which conversion from float never makes.
struct fp8_e5m2 {
  static constexpr float largest = 57344;
  std::uint8_t bits = 0;

  constexpr fp8_e5m2() = default;
  /// To nearest, ties to even; larger magnitudes and infinities become 57344, NaN stays NaN.
  DSV3_HOST_DEVICE constexpr explicit fp8_e5m2(float value) : bits(format::round(value, 0x7Bu, 0x7Fu)) {}

  DSV3_HOST_DEVICE constexpr operator float() const {
    const std::uint32_t magnitude = bits & 0x7Fu;
    const std::uint32_t special = 0x7F800000u | (magnitude & 3u) << 21 | (magnitude > 0x7Cu ? 0x400000u : 0u);
    return magnitude >= 0x7Cu ? __builtin_bit_cast(float, special | (bits & 0x80u) << 24)
                              : format::widen(bits);
  }
  DSV3_HOST_DEVICE static constexpr fp8_e5m2 from_bits(std::uint8_t pattern) {
    fp8_e5m2 result;
    result.bits = pattern;
    return result;
  }

 private:
  using format = detail::fp8_format<5, 2>;
};

static_assert(std::is_trivially_copyable_v<fp8_e4m3> && sizeof(fp8_e4m3) == 1);
static_assert(std::is_trivially_copyable_v<fp8_e5m2> && sizeof(fp8_e5m2) == 1);

}  // namespace dsv3::inline DSV3_ABI
