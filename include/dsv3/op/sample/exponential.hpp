// SPDX-License-Identifier: MIT
// An exponential that is the same number wherever it is computed, and the integer weights made of it.
#pragma once

#include <dsv3/base/config.hpp>

#include <cmath>
#include <cstdint>

namespace dsv3::inline DSV3_ABI::op {

/// exp x within 1 ulp for |x| <= 700. Every operation is an IEEE one that rounds once, and every product that
/// meets a sum is fused explicitly, so compilers have nothing to contract and all machines agree on every
/// bit.
DSV3_HOST_DEVICE DSV3_FORCE_INLINE double exact_exponential(double x) {
  // x = n ln 2 + r, |r| <= ln 2 / 2. The upper part of ln 2 has 33 bits and n at most 11, so x - n · upper is
  // exact; the lower part brings the only rounding of r. exp r is its series up to r^13, which leaves 2^-57.
  constexpr double to_integer = 0x1.8p52;  // added, the low bits of the sum are the nearest integer
  const double shifted = std::fma(x, 0x1.71547652b82fep0, to_integer);
  const double n = shifted - to_integer;
  const double r = std::fma(-n, 0x1.a39ef35793c76p-33, std::fma(-n, 0x1.62e42feep-1, x));
  double e = 1.0 / 6227020800;
  e = std::fma(e, r, 1.0 / 479001600);
  e = std::fma(e, r, 1.0 / 39916800);
  e = std::fma(e, r, 1.0 / 3628800);
  e = std::fma(e, r, 1.0 / 362880);
  e = std::fma(e, r, 1.0 / 40320);
  e = std::fma(e, r, 1.0 / 5040);
  e = std::fma(e, r, 1.0 / 720);
  e = std::fma(e, r, 1.0 / 120);
  e = std::fma(e, r, 1.0 / 24);
  e = std::fma(e, r, 1.0 / 6);
  e = std::fma(e, r, 0.5);
  e = std::fma(e, r, 1.0);
  e = std::fma(e, r, 1.0);
  const std::uint64_t exponent = (__builtin_bit_cast(std::uint64_t, shifted) + 1023) << 52;
  return e * __builtin_bit_cast(double, exponent);
}

/// The weight of the most likely token is 2^weight_bits: a total over 2^20 tokens is at most 2^63.
inline constexpr int weight_bits = 43;

/// floor(2^weight_bits · exp x) for x <= 0, minus infinity included. A token less likely than the likeliest
/// one by a factor of 2^43 has none.
DSV3_HOST_DEVICE DSV3_FORCE_INLINE std::uint64_t token_weight(double x) {
  const double above = x > -30.0 ? x : -30.0;  // where the weight is zero already
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(exact_exponential(above) * 0x1p43));
}

}  // namespace dsv3::inline DSV3_ABI::op
