// SPDX-License-Identifier: MIT
// Rounding a float to few bits, and back: what the 8- and 12-bit formats share.
#pragma once

#include <dsv3/base/config.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::detail {

// A sign, `ExponentBits` bits of exponent and `MantissaBits` of mantissa in the low bits of a word. There is
// no choice between two computed numbers in here: compilers make such a choice a branch, because arithmetic
// might trap, and do not vectorise loops over it.
template <int ExponentBits, int MantissaBits>
struct narrow_float {
  static constexpr std::uint32_t sign = 1u << (ExponentBits + MantissaBits);
  static constexpr int dropped = 23 - MantissaBits;  // bits of a float's mantissa that are rounded away
  static constexpr std::uint32_t bias = (1u << (ExponentBits - 1)) - 1u;
  static constexpr std::uint32_t rebias = 127u - bias, infinity = 0x7F800000u;
  static constexpr std::uint32_t smallest_normal = (rebias + 1u) << 23;  // the bits of a float

  // To nearest, ties to even; magnitudes beyond the code `largest` become it, and a NaN becomes `largest`
  // with the bits of `nan` set. 2^(23 - MantissaBits) times the number's power of two, or the smallest normal
  // one, has the format's step as spacing: adding it to the number rounds that, and counts the steps in its
  // last bits.
  DSV3_HOST_DEVICE static constexpr std::uint32_t round(float value, std::uint32_t largest,
                                                        std::uint32_t nan) {
    const auto pattern = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t magnitude = pattern & 0x7FFFFFFFu, limit = (largest << dropped) + (rebias << 23);
    const std::uint32_t bounded = magnitude < limit ? magnitude : limit;
    const std::uint32_t exponent = bounded & infinity;
    const std::uint32_t power = exponent > smallest_normal ? exponent : smallest_normal;
    const std::uint32_t grid = power + (static_cast<std::uint32_t>(dropped) << 23);
    const float sum = __builtin_bit_cast(float, bounded) + __builtin_bit_cast(float, grid);
    const std::uint32_t steps = __builtin_bit_cast(std::uint32_t, sum) - grid;
    const std::uint32_t negative =
        where(magnitude <= infinity, pattern) >> (31 - ExponentBits - MantissaBits);
    return (steps + ((power - smallest_normal) >> dropped)) | where(magnitude > infinity, nan) |
           (negative & sign);
  }

  // The bits of a finite code's value. A subnormal one is read with the smallest exponent of normal numbers
  // and the implied leading bit taken off again, which is exact.
  DSV3_HOST_DEVICE static constexpr std::uint32_t widen(std::uint32_t code) {
    const std::uint32_t magnitude = code & (sign - 1u);
    const auto subnormal = static_cast<std::uint32_t>(magnitude < (1u << MantissaBits));
    const std::uint32_t pattern = (magnitude << dropped) + ((rebias + subnormal) << 23);
    const float value =
        __builtin_bit_cast(float, pattern) - __builtin_bit_cast(float, (0u - subnormal) & smallest_normal);
    return __builtin_bit_cast(std::uint32_t, value) | (code & sign) << (31 - ExponentBits - MantissaBits);
  }

  // `bits` where `holds`, else none.
  DSV3_HOST_DEVICE static constexpr std::uint32_t where(bool holds, std::uint32_t bits) {
    return (0u - static_cast<std::uint32_t>(holds)) & bits;
  }
};

}  // namespace dsv3::inline DSV3_ABI::detail
