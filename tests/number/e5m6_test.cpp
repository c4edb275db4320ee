// SPDX-License-Identifier: MIT
// The 12-bit format and its packing against whole-number arithmetic.
#include <dsv3/number/e5m6.hpp>
#include <dsv3/number/traits.hpp>

#include <support/narrow_float.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>

using namespace dsv3;

TEST_CASE("every code of twelve bits has the value of its fields, and survives") {
  const oracle::narrow_float& format = oracle::e5m6;
  int wrong = 0;
  for (std::uint32_t code = 0; code < 4096; ++code) {
    const float value = e5m6::from_bits(static_cast<std::uint16_t>(code));
    const std::uint32_t magnitude = code & 0x7FFu;
    if (magnitude > 0x7C0u) {
      if (!std::isnan(value) || e5m6(value).bits != 0x7FF) ++wrong;
    } else if (magnitude == 0x7C0u) {
      if (!std::isinf(value) || std::signbit(value) != (code > 2047)) ++wrong;
    } else {
      const double expected = format.value(magnitude) * (code > 2047 ? -1 : 1);
      if (static_cast<double>(value) != expected || std::signbit(value) != (code > 2047)) ++wrong;
      if (e5m6(value).bits != code) ++wrong;
    }
  }
  CHECK(wrong == 0);
  CHECK(static_cast<double>(e5m6::from_bits(0x7BF)) == 65024);
  CHECK(static_cast<double>(e5m6::from_bits(1)) == 0x1p-20);
  CHECK(number_traits<e5m6>::max == 65024);
  CHECK(static_cast<double>(e5m6::from_bits(15 * 64 + 1)) - 1 == number_traits<e5m6>::epsilon);
}

TEST_CASE("it is an IEEE half without its four low bits") {
  int wrong = 0;
  for (std::uint32_t code = 0; code < 0x7C0; ++code) {
    const std::uint32_t half = code << 4, exponent = half >> 10, mantissa = half & 1023u;
    const double value = exponent == 0 ? std::ldexp(mantissa, -24)
                                       : std::ldexp(1024 + mantissa, static_cast<int>(exponent) - 25);
    if (value != static_cast<double>(e5m6::from_bits(static_cast<std::uint16_t>(code)))) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("every boundary and random bits round as whole numbers do") {
  int wrong = 0;
  for (const float x : support::boundaries(oracle::e5m6))
    if (e5m6(x).bits != oracle::e5m6.round(x)) ++wrong;
  CHECK(wrong == 0);
  const random_stream random(5, 6);
  for (std::uint64_t i = 0; i < 400000; ++i) {
    const auto bits = random.at(i);
    const float any = std::bit_cast<float>(bits.value[0]);
    const float inside =
        std::bit_cast<float>((bits.value[1] & 0x807FFFFFu) | (103u + bits.value[2] % 48u) << 23);
    if (e5m6(any).bits != oracle::e5m6.round(any)) ++wrong;
    if (e5m6(inside).bits != oracle::e5m6.round(inside)) ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(e5m6(65024.0f).bits == 0x7BF);
  CHECK(e5m6(65520.0f).bits == 0x7BF);
  CHECK(e5m6(std::numeric_limits<float>::infinity()).bits == 0x7BF);
  CHECK(e5m6(-std::numeric_limits<float>::infinity()).bits == 0xFBF);
}

TEST_CASE("rounding has no bias") {
  CHECK(std::fabs(support::rounding_bias(oracle::e5m6, [](float x) { return e5m6(x).bits; })) < 5);
  const double cut = support::rounding_bias(oracle::e5m6, [](float x) {
    return oracle::e5m6.round(x, oracle::narrow_float::direction::towards_zero);
  });
  CHECK(cut < -1000);
}

TEST_CASE("eight values lie in three words, the first in the top bits") {
  // Value i as the bits 12 (7 - i) .. of one number of 96 bits, by one bit at a time.
  const random_stream random(7, 8);
  int wrong = 0;
  for (std::uint64_t round = 0; round < 4096; ++round) {
    e5m6 values[8], back[8];
    std::uint32_t words[3] = {};
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t code = round < 12 ? (i == 3 ? 1u << round : 0u)
                                            : random.at(8 * round + static_cast<std::uint64_t>(i)).value[0];
      values[i] = e5m6::from_bits(static_cast<std::uint16_t>(code & 0xFFFu));
      for (int b = 0; b < 12; ++b)
        if ((code >> b & 1u) != 0) words[(12 * i + 11 - b) / 32] |= 1u << (31 - (12 * i + 11 - b) % 32);
    }
    const e5m6x8 packed = e5m6x8::pack(values);
    packed.unpack(back);
    for (int w = 0; w < 3; ++w) wrong += packed.words[w] != words[w];
    for (int i = 0; i < 8; ++i) wrong += back[i].bits != values[i].bits;
  }
  CHECK(wrong == 0);
}
