// SPDX-License-Identifier: MIT
// What every narrow format must pass: codes, boundaries, and rounding without a bias.
#pragma once

#include <oracle/narrow_float.hpp>

#include <dsv3/exec/random.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace support {

/// Where rounding changes its mind: every value, every midpoint, their neighbours among the floats, and what
/// lies beyond the largest value and below the smallest.
inline std::vector<float> boundaries(const oracle::narrow_float& format) {
  std::vector<float> all = {0.0f,
                            1e-45f,
                            1.17549435e-38f,
                            1e-30f,
                            1e30f,
                            std::numeric_limits<float>::max(),
                            std::numeric_limits<float>::infinity()};
  const auto add = [&](double exact) {
    const auto x = static_cast<float>(exact);
    for (const float near : {std::nextafterf(x, 0.0f), x, std::nextafterf(x, 2 * x + 1)}) all.push_back(near);
  };
  for (std::uint32_t code = 0; code <= format.largest; ++code) {
    add(format.value(code));
    add((format.value(code) + format.value(code + 1)) / 2);
  }
  const double last = format.value(format.largest), step = last - format.value(format.largest - 1);
  for (int i = 0; i <= 64; ++i) add(last + step * i / 32);  // 448 .. 512 in steps of one
  const std::size_t half = all.size();
  for (std::size_t i = 0; i < half; ++i) all.push_back(-all[i]);
  return all;
}

/// The mean of (|rounded| - |x|) / step over random x, in standard deviations of that mean if rounding is to
/// nearest: below about 4 in magnitude for it, and thousands for cutting off.
template <class Round>
double rounding_bias(const oracle::narrow_float& format, Round&& round) {
  constexpr int count = 1 << 20;
  const dsv3::random_stream random(20260101, 77);
  double sum = 0;
  for (int i = 0; i < count; ++i) {
    // Uniform in a power of two, so that every place between two codes is as likely.
    const auto bits = random.at(static_cast<std::uint64_t>(i));
    const int power = static_cast<int>(bits.value[1] % 8u) - 2;
    const auto x = static_cast<float>(std::ldexp(1 + bits.value[0] * 0x1p-32, power));
    sum += (format.value(round(x)) - static_cast<double>(x)) / std::ldexp(1.0, power - format.mantissa_bits);
  }
  return sum / count / std::sqrt(1.0 / 12 / count);
}

}  // namespace support
