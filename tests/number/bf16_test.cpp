// SPDX-License-Identifier: MIT
// bf16 conversion against a search for the nearest of all 65536 codes.
#include <dsv3/exec/random.hpp>
#include <dsv3/number/bf16.hpp>
#include <dsv3/number/traits.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>

using dsv3::bf16;

namespace {

// All finite values by magnitude, and the value that lies one step beyond the largest: from half way to it, a
// number rounds to infinity.
const std::map<double, std::uint16_t>& magnitudes() {
  static const std::map<double, std::uint16_t> table = [] {
    std::map<double, std::uint16_t> result;
    for (std::uint32_t code = 0; code <= 0x7F80; ++code) {
      const int exponent = static_cast<int>(code >> 7), mantissa = static_cast<int>(code & 0x7F);
      result[exponent == 0 ? std::ldexp(mantissa, -133) : std::ldexp(128 + mantissa, exponent - 134)] =
          static_cast<std::uint16_t>(code);
    }
    return result;
  }();
  return table;
}

std::uint16_t oracle(double value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  auto above = magnitudes().lower_bound(magnitude);
  if (above == magnitudes().end()) return sign | 0x7F80;
  if (above->first == magnitude || above == magnitudes().begin()) return sign | above->second;
  const auto below = std::prev(above);
  const double down = magnitude - below->first, up = above->first - magnitude;
  if (down < up) return sign | below->second;
  if (up < down) return sign | above->second;
  return sign | (below->second % 2 == 0 ? below->second : above->second);
}

std::uint16_t bits_of(float value) { return bf16(value).bits; }
std::uint16_t bits_of(double value) { return bf16(value).bits; }

}  // namespace

TEST_CASE("every code that is a number survives the way to float and back") {
  int wrong = 0;
  for (std::uint32_t code = 0; code < 0x10000; ++code) {
    const bf16 value = bf16::from_bits(static_cast<std::uint16_t>(code));
    const float widened = value;
    if (std::bit_cast<std::uint32_t>(widened) != code << 16) ++wrong;
    const bool nan = (code & 0x7FFF) > 0x7F80;
    if (std::isnan(widened) != nan) ++wrong;
    // A NaN keeps its sign and payload and becomes quiet.
    if (bits_of(widened) != (nan ? (code | 0x40) : code)) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("a float rounds to the nearest code, ties to even") {
  int wrong = 0;
  for (std::uint32_t code = 0; code < 0x10000; ++code) {
    if ((code & 0x7FFF) >= 0x7F80) continue;
    for (const std::uint32_t low : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      const float value = std::bit_cast<float>((code << 16) | low);
      if (bits_of(value) != oracle(value)) ++wrong;
    }
  }
  CHECK(wrong == 0);
  const dsv3::random_stream random(1, 2);
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const float value = std::bit_cast<float>(random.at(i).value[0]);
    if (std::isfinite(value) && bits_of(value) != oracle(value)) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("a double rounds once, not first to float") {
  int wrong = 0;
  for (std::uint32_t code = 0; code < 0x7F80; ++code) {
    const double value = static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(code)));
    const double step =
        std::nextafter(static_cast<float>(value), std::numeric_limits<float>::infinity()) - value;
    const double tie = value + step * 0x8000;
    // So near the tie that the nearest float is the tie itself.
    for (const double near_tie : {tie, tie + step * 1e-6, tie - step * 1e-6, -(tie + step * 1e-6)})
      if (bits_of(near_tie) != oracle(near_tie)) ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(bits_of(1e300) == 0x7F80);
  CHECK(bits_of(-1e300) == 0xFF80);
  CHECK(bits_of(1e-300) == 0);
  CHECK(bits_of(-1e-300) == 0x8000);
  CHECK(bits_of(std::numeric_limits<double>::infinity()) == 0x7F80);
  CHECK(std::isnan(static_cast<float>(bf16(std::nan("")))));
}

TEST_CASE("conversion is usable in constant expressions") {
  static_assert(bf16(1.0f).bits == 0x3F80);
  static_assert(static_cast<float>(bf16::from_bits(0xC000)) == -2.0f);
  static_assert(bf16(1.00390625).bits == 0x3F80, "half way between 1 and the next: to even");
  CHECK(static_cast<double>(bf16(3.0f)) == 3.0);
}

TEST_CASE("the traits say what the type does") {
  const auto largest = bf16::from_bits(0x7F7F);
  CHECK(static_cast<double>(largest) == dsv3::number_traits<bf16>::max);
  CHECK(static_cast<double>(bf16::from_bits(0x3F81)) - 1 == dsv3::number_traits<bf16>::epsilon);
  CHECK(dsv3::number_traits<float>::max == std::numeric_limits<float>::max());
  CHECK(dsv3::number_traits<float>::epsilon == std::numeric_limits<float>::epsilon());
  CHECK(dsv3::number_traits<double>::max == std::numeric_limits<double>::max());
  CHECK(dsv3::number_traits<double>::epsilon == std::numeric_limits<double>::epsilon());
}
