// SPDX-License-Identifier: MIT
// The two 8-bit formats against whole-number arithmetic.
#include <dsv3/number/fp8.hpp>
#include <dsv3/number/traits.hpp>

#include <support/narrow_float.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>

using namespace dsv3;

namespace {

const oracle::narrow_float& oracle_of(fp8_e4m3) { return oracle::e4m3; }
const oracle::narrow_float& oracle_of(fp8_e5m2) { return oracle::e5m2; }

template <class Element>
int mismatches(const std::vector<float>& numbers) {
  int wrong = 0;
  for (const float x : numbers)
    if (Element(x).bits != oracle_of(Element()).round(x)) ++wrong;
  return wrong;
}

}  // namespace

TEST_CASE_TEMPLATE("every code has the value of its fields, and survives the way to float and back", Element,
                   fp8_e4m3, fp8_e5m2) {
  const oracle::narrow_float& format = oracle_of(Element());
  int wrong = 0, nans = 0, infinities = 0;
  for (std::uint32_t code = 0; code < 256; ++code) {
    const auto element = Element::from_bits(static_cast<std::uint8_t>(code));
    const float value = element;
    const std::uint32_t magnitude = code & 0x7Fu;
    if (std::isnan(value)) {
      ++nans;
      if (magnitude <= format.largest || Element(value).bits != 0x7F) ++wrong;
    } else if (std::isinf(value)) {
      ++infinities;
      if (magnitude != format.largest + 1 || std::signbit(value) != (code > 127)) ++wrong;
    } else {
      const double expected = format.value(magnitude) * (code > 127 ? -1 : 1);
      if (static_cast<double>(value) != expected || std::signbit(value) != (code > 127)) ++wrong;
      if (Element(value).bits != code) ++wrong;
    }
  }
  CHECK(wrong == 0);
  const bool e4m3 = format.mantissa_bits == 3;
  CHECK(nans == (e4m3 ? 2 : 6));
  CHECK(infinities == (e4m3 ? 0 : 2));
}

TEST_CASE_TEMPLATE("every boundary rounds as whole numbers do", Element, fp8_e4m3, fp8_e5m2) {
  const std::vector<float> all = support::boundaries(oracle_of(Element()));
  CHECK(all.size() > 6 * 2 * 120);
  CHECK(mismatches<Element>(all) == 0);
}

TEST_CASE_TEMPLATE("random bits round as whole numbers do", Element, fp8_e4m3, fp8_e5m2) {
  const random_stream random(3, 4);
  std::vector<float> numbers;
  for (std::uint64_t i = 0; i < 400000; ++i) {
    const auto bits = random.at(i);
    numbers.push_back(std::bit_cast<float>(bits.value[0]));
    // The same within the format's range: 2^-24 .. 2^23.
    numbers.push_back(
        std::bit_cast<float>((bits.value[1] & 0x807FFFFFu) | (103u + bits.value[2] % 48u) << 23));
  }
  CHECK(mismatches<Element>(numbers) == 0);
}

TEST_CASE("what is too large becomes the largest, NaN stays, tiny numbers keep their sign") {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float x : {448.0f, 449.0f, 463.99997f, 464.0f, 464.00003f, 480.0f, 1e30f, infinity}) {
    CHECK(fp8_e4m3(x).bits == 0x7E);
    CHECK(fp8_e4m3(-x).bits == 0xFE);
  }
  CHECK(fp8_e4m3(432.0f).bits == 0x7E);  // half way between 416 and 448: to even
  CHECK(fp8_e4m3(431.99997f).bits == 0x7D);
  for (const float x : {57344.0f, 61440.0f, 65536.0f, infinity}) CHECK(fp8_e5m2(x).bits == 0x7B);
  for (const std::uint32_t nan : {0x7F800001u, 0x7FC00000u, 0xFFC00000u, 0xFFFFFFFFu}) {
    CHECK(fp8_e4m3(std::bit_cast<float>(nan)).bits == 0x7F);
    CHECK(fp8_e5m2(std::bit_cast<float>(nan)).bits == 0x7F);
  }
  CHECK(fp8_e4m3(0x1p-10f).bits == 0);  // half of the smallest: to even
  CHECK(fp8_e4m3(0x1.000002p-10f).bits == 1);
  CHECK(fp8_e4m3(-0x1p-10f).bits == 0x80);
  CHECK(fp8_e4m3(1e-45f).bits == 0);
  CHECK(fp8_e4m3(-0.0f).bits == 0x80);
}

TEST_CASE_TEMPLATE("rounding has no bias", Element, fp8_e4m3, fp8_e5m2) {
  const oracle::narrow_float& format = oracle_of(Element());
  CHECK(std::fabs(support::rounding_bias(format, [](float x) { return Element(x).bits; })) < 5);
  const double cut = support::rounding_bias(
      format, [&](float x) { return format.round(x, oracle::narrow_float::direction::towards_zero); });
  CHECK(cut < -1000);
}

TEST_CASE("conversions are usable in constant expressions, and the traits say what they do") {
  static_assert(fp8_e4m3(1.0f).bits == 0x38 && fp8_e5m2(1.0f).bits == 0x3C);
  static_assert(static_cast<float>(fp8_e4m3::from_bits(0xC0)) == -2.0f);
  static_assert(fp8_e4m3(1.0625f).bits == 0x38, "half way between 1 and the next: to even");
  CHECK(static_cast<double>(fp8_e4m3::from_bits(0x7E)) == number_traits<fp8_e4m3>::max);
  CHECK(static_cast<double>(fp8_e5m2::from_bits(0x7B)) == number_traits<fp8_e5m2>::max);
  CHECK(static_cast<double>(fp8_e4m3::from_bits(0x39)) - 1 == number_traits<fp8_e4m3>::epsilon);
  CHECK(static_cast<double>(fp8_e5m2::from_bits(0x3D)) - 1 == number_traits<fp8_e5m2>::epsilon);
}
