// SPDX-License-Identifier: MIT
// Elementary functions written so that loops over them vectorise; libm's are calls.
#pragma once

#include <dsv3/base/config.hpp>

#include <cmath>
#include <cstdint>

namespace dsv3::inline DSV3_ABI::cpu {

/// exp within 2 ulp over the whole float range; overflow gives infinity, underflow zero, NaN stays NaN.
DSV3_FORCE_INLINE float exponential(float x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2; exp r by its series, 2^n through the exponent field in two halves,
  // so that results in the subnormal range round once.
  const float above = x > -104.0f ? x : -104.0f;  // NaN too, which has no integer below
  const float clamped = above < 89.0f ? above : 89.0f;
  const float shifted =
      clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are round(x / ln 2)
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  float e = 1.0f / 5040;
  e = e * r + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const std::int32_t exponent = static_cast<std::int32_t>(n), half = exponent >> 1;
  const float low = __builtin_bit_cast(float, (half + 127) << 23);
  const float high = __builtin_bit_cast(float, (exponent - half + 127) << 23);
  return x != x ? x : e * low * high;
}

/// The reference precision uses libm.
inline double exponential(double x) { return std::exp(x); }

/// sqrt within 1 ulp, x >= 0. A loop over libm's does not vectorise, because that reports negative numbers by
/// errno.
DSV3_FORCE_INLINE float square_root(float x) {
  const bool tiny = x < 1e-30f;  // subnormal numbers have too few bits to start from
  const float scaled = tiny ? x * 0x1p48f : x;
  // A guess that halves and negates the exponent; each step of Newton doubles the digits of 1 / sqrt(scaled).
  float y = __builtin_bit_cast(float, 0x5F375A86 - (__builtin_bit_cast(std::int32_t, scaled) >> 1));
  y *= 1.5f - 0.5f * scaled * y * y;
  y *= 1.5f - 0.5f * scaled * y * y;
  y *= 1.5f - 0.5f * scaled * y * y;
  const float root = scaled * y;
  const float nearer = (root + 0.5f * y * (scaled - root * root)) * (tiny ? 0x1p-24f : 1.0f);
  return x <= 0x1.fffffep127f ? nearer : x;  // infinity and NaN stay
}

inline double square_root(double x) { return std::sqrt(x); }

template <class T>
DSV3_FORCE_INLINE T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

}  // namespace dsv3::inline DSV3_ABI::cpu
