// SPDX-License-Identifier: MIT
// bfloat16: 1 sign, 8 exponent, 7 mantissa bits; storage only, arithmetic happens in float.
#pragma once

#include <dsv3/base/config.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// The upper half of a float. One type in every translation unit, bit-compatible with the CUDA type.
struct bf16 {
  std::uint16_t bits = 0;

  constexpr bf16() = default;

  /// Rounds to nearest, ties to even; every NaN becomes a quiet NaN of the same sign.
  DSV3_HOST_DEVICE constexpr explicit(false) bf16(float value) : bits(round(value)) {}
  DSV3_HOST_DEVICE constexpr explicit bf16(double value) : bf16(to_odd_float(value)) {}

  // Assigns the bits: compilers vectorise that, but not the copy of a class. The type stays trivial to copy.
  constexpr bf16(const bf16&) = default;
  constexpr bf16& operator=(const bf16&) = default;
  template <std::same_as<bf16> Same>
  DSV3_HOST_DEVICE constexpr bf16& operator=(Same&& other) {
    bits = other.bits;
    return *this;
  }

  DSV3_HOST_DEVICE constexpr operator float() const {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
  }

  DSV3_HOST_DEVICE static constexpr bf16 from_bits(std::uint16_t pattern) {
    bf16 result;
    result.bits = pattern;
    return result;
  }

 private:
  // Branch-free, so that conversion loops vectorise.
  DSV3_HOST_DEVICE static constexpr std::uint16_t round(float value) {
    const auto pattern = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t rounded = (pattern + 0x7FFFu + ((pattern >> 16) & 1u)) >> 16;
    const std::uint32_t quiet = (pattern >> 16) | 0x40u;
    const bool nan = (pattern & 0x7FFFFFFFu) > 0x7F800000u;
    return static_cast<std::uint16_t>(nan ? quiet : rounded);
  }

  // Towards zero, and to an odd last bit where that is not exact: only a double on a tie of bf16 lands on it,
  // so the second rounding decides alone.
  DSV3_HOST_DEVICE static constexpr float to_odd_float(double value) {
    const float nearest = static_cast<float>(value);
    if (static_cast<double>(nearest) == value || value != value) return nearest;
    auto pattern = __builtin_bit_cast(std::uint32_t, nearest);
    const bool outwards = value < 0 ? nearest < value : nearest > value;
    pattern = (pattern - (outwards ? 1u : 0u)) | 1u;
    return __builtin_bit_cast(float, pattern);
  }
};

static_assert(std::is_trivially_copyable_v<bf16>);
static_assert(sizeof(bf16) == 2 && alignof(bf16) == 2);

}  // namespace dsv3::inline DSV3_ABI
