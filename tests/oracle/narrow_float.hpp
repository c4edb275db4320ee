// SPDX-License-Identifier: MIT
// Formats of few bits by whole numbers alone: a value is a count of a power of two.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace oracle {

struct narrow_float {
  int exponent_bits, mantissa_bits;
  std::uint32_t largest, nan;  // codes

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  std::uint32_t sign() const { return 1u << (exponent_bits + mantissa_bits); }

  /// The value of a finite code without sign.
  double value(std::uint32_t code) const {
    const int field = static_cast<int>(code >> mantissa_bits);
    const int mantissa = static_cast<int>(code & ((1u << mantissa_bits) - 1u));
    return field == 0 ? std::ldexp(mantissa, 1 - bias() - mantissa_bits)
                      : std::ldexp((1 << mantissa_bits) + mantissa, field - bias() - mantissa_bits);
  }

  enum class direction { nearest, towards_zero };

  /// The code of a float: to nearest with ties to even, or cut off.
  std::uint32_t round(float x, direction to = direction::nearest) const {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    const std::uint32_t negative = bits >> 31 != 0 ? sign() : 0u;
    const int field = static_cast<int>(bits >> 23 & 255u);
    std::uint64_t count = bits & 0x7FFFFFu;
    if (field == 255) return count != 0 ? nan : negative | largest;
    if (field > 0) count |= 0x800000u;
    const int unit = (field > 0 ? field : 1) - 150;  // the value is count * 2^unit
    if (count == 0) return negative;

    int length = 0;
    while (count >> length != 0) ++length;
    int exponent = unit + length - 1;  // of the leading bit
    if (exponent < 1 - bias()) exponent = 1 - bias();
    const int dropped = exponent - mantissa_bits - unit;
    std::uint64_t steps = 0;  // of 2^(exponent - mantissa_bits)
    if (dropped <= 0) {
      steps = count << -dropped;
    } else if (dropped < 60) {
      const std::uint64_t rest = count & ((std::uint64_t{1} << dropped) - 1),
                          half = std::uint64_t{1} << (dropped - 1);
      steps = count >> dropped;
      if (to == direction::nearest && (rest > half || (rest == half && steps % 2 == 1))) ++steps;
    }
    if (steps >> (mantissa_bits + 1) != 0) steps >>= 1, ++exponent;
    const bool normal = steps >> mantissa_bits != 0;
    const std::uint64_t code =
        normal ? (static_cast<std::uint64_t>(exponent + bias() - 1) << mantissa_bits) + steps : steps;
    return negative | (code > largest ? largest : static_cast<std::uint32_t>(code));
  }
};

inline constexpr narrow_float e4m3{4, 3, 0x7E, 0x7F}, e5m2{5, 2, 0x7B, 0x7F}, e5m6{5, 6, 0x7BF, 0x7FF};

}  // namespace oracle
