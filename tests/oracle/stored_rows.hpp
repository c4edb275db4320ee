// SPDX-License-Identifier: MIT
// Narrow floating-point formats as tables of their values, and rounding as a search for the nearest.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace oracle {

/// A format of at most 15 bits without sign, its codes in the order of their values.
struct narrow_format {
  int exponent_bits, mantissa_bits;
  int largest;  // code of the largest finite value

  double value(int code) const {
    const int bias = (1 << (exponent_bits - 1)) - 1, steps = 1 << mantissa_bits;
    const int exponent = code / steps, mantissa = code % steps;
    return exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                         : std::ldexp(steps + mantissa, exponent - bias - mantissa_bits);
  }
  /// The code of the nearest value, of two the even one; with the sign on top.
  int nearest(double x) const {
    int best = 0;
    double distance = INFINITY;
    for (int code = 0; code <= largest; ++code) {
      const double d = std::fabs(std::fabs(x) - value(code));
      if (d < distance || (d == distance && code % 2 == 0)) best = code, distance = d;
    }
    return best + (std::signbit(x) ? 1 << (exponent_bits + mantissa_bits) : 0);
  }
};
inline constexpr narrow_format e4m3{4, 3, 0x7E}, e5m6{5, 6, 0x7BF};

/// Codes of one row, and the scale of each 128 of them: as floats divide, whose quotients double holds.
struct narrow_row {
  std::vector<int> codes;
  std::vector<double> scales;
};
inline narrow_row narrow(const std::vector<double>& x, const narrow_format& format, bool power_of_two) {
  narrow_row row;
  for (std::size_t first = 0; first < x.size(); first += 128) {
    const std::size_t end = x.size() - first < 128 ? x.size() : first + 128;
    double amax = static_cast<double>(1e-4f);
    for (std::size_t i = first; i < end; ++i) amax = std::fabs(x[i]) > amax ? std::fabs(x[i]) : amax;
    double scale = static_cast<double>(static_cast<float>(amax / format.value(format.largest)));
    if (power_of_two) scale = std::exp2(std::ceil(std::log2(scale)));
    row.scales.push_back(scale);
    for (std::size_t i = first; i < end; ++i)
      row.codes.push_back(format.nearest(static_cast<double>(static_cast<float>(x[i] / scale))));
  }
  return row;
}

/// Eight codes of twelve bits as the bits of three words: the first one on top of the first word.
inline std::vector<std::uint8_t> pack_twelve(std::vector<int> codes) {
  while (codes.size() % 8 != 0) codes.push_back(0);
  std::vector<int> bits;
  for (const int code : codes)
    for (int bit = 11; bit >= 0; --bit) bits.push_back(code >> bit & 1);
  std::vector<std::uint8_t> bytes;
  for (std::size_t word = 0; word < bits.size(); word += 32)
    for (int byte = 3; byte >= 0; --byte) {  // little-endian words
      int value = 0;
      for (std::size_t bit = 0; bit < 8; ++bit)
        value = 2 * value + bits[word + 8 * static_cast<std::size_t>(byte) + bit];
      bytes.push_back(static_cast<std::uint8_t>(value));
    }
  return bytes;
}

}  // namespace oracle
