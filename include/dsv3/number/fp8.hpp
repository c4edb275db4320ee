// SPDX-License-Identifier: MIT
// The two 8-bit floating-point formats of matrix units; storage only, arithmetic happens in float.
#pragma once

#include <dsv3/number/narrow_float.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// 4 exponent bits (bias 7), 3 mantissa bits, no infinities: finite values up to 448, smallest 2^-9. One type
/// in every translation unit, bit-compatible with the CUDA type.
struct fp8_e4m3 {
  std::uint8_t bits = 0;

  constexpr fp8_e4m3() = default;
  /// To nearest, ties to even; larger magnitudes and infinities become 448, NaN stays NaN.
  DSV3_HOST_DEVICE constexpr explicit fp8_e4m3(float value)
      : bits(static_cast<std::uint8_t>(format::round(value, 0x7Eu, 0x7Fu))) {}

  // Assigns the bits: compilers vectorise that, but not the copy of a class.
  constexpr fp8_e4m3(const fp8_e4m3&) = default;
  constexpr fp8_e4m3& operator=(const fp8_e4m3&) = default;
  template <std::same_as<fp8_e4m3> Same>
  DSV3_HOST_DEVICE constexpr fp8_e4m3& operator=(Same&& other) {
    bits = other.bits;
    return *this;
  }

  DSV3_HOST_DEVICE constexpr operator float() const {
    const std::uint32_t nan = format::where((bits & 0x7Fu) == 0x7Fu, 0x7FC00000u);
    return __builtin_bit_cast(float, format::widen(bits) | nan);
  }
  DSV3_HOST_DEVICE static constexpr fp8_e4m3 from_bits(std::uint8_t pattern) {
    fp8_e4m3 result;
    result.bits = pattern;
    return result;
  }

 private:
  using format = detail::narrow_float<4, 3>;
};

/// 5 exponent bits (bias 15), 2 mantissa bits: finite values up to 57344, smallest 2^-16; has infinities,
/// which conversion from float never makes.
struct fp8_e5m2 {
  std::uint8_t bits = 0;

  constexpr fp8_e5m2() = default;
  /// To nearest, ties to even; larger magnitudes and infinities become 57344, NaN stays NaN.
  DSV3_HOST_DEVICE constexpr explicit fp8_e5m2(float value)
      : bits(static_cast<std::uint8_t>(format::round(value, 0x7Bu, 0x7Fu))) {}

  // Assigns the bits: compilers vectorise that, but not the copy of a class.
  constexpr fp8_e5m2(const fp8_e5m2&) = default;
  constexpr fp8_e5m2& operator=(const fp8_e5m2&) = default;
  template <std::same_as<fp8_e5m2> Same>
  DSV3_HOST_DEVICE constexpr fp8_e5m2& operator=(Same&& other) {
    bits = other.bits;
    return *this;
  }

  DSV3_HOST_DEVICE constexpr operator float() const {
    const std::uint32_t magnitude = bits & 0x7Fu;
    const std::uint32_t special =
        format::where(magnitude >= 0x7Cu, 0x7F800000u) | format::where(magnitude > 0x7Cu, 0x400000u);
    return __builtin_bit_cast(float, format::widen(bits) | special);
  }
  DSV3_HOST_DEVICE static constexpr fp8_e5m2 from_bits(std::uint8_t pattern) {
    fp8_e5m2 result;
    result.bits = pattern;
    return result;
  }

 private:
  using format = detail::narrow_float<5, 2>;
};

static_assert(std::is_trivially_copyable_v<fp8_e4m3> && sizeof(fp8_e4m3) == 1);
static_assert(std::is_trivially_copyable_v<fp8_e5m2> && sizeof(fp8_e5m2) == 1);

}  // namespace dsv3::inline DSV3_ABI
