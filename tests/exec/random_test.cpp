// SPDX-License-Identifier: MIT
// The random stream against the published vectors of Philox 4x32 with ten rounds, and the shape of what is
// drawn.
#include <dsv3/exec/random.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>

using dsv3::random_stream;

namespace {

void check_words(const random_stream::words& found, std::uint32_t a, std::uint32_t b, std::uint32_t c,
                 std::uint32_t d) {
  CHECK(found.value[0] == a);
  CHECK(found.value[1] == b);
  CHECK(found.value[2] == c);
  CHECK(found.value[3] == d);
}

}  // namespace

TEST_CASE("known answers") {
  check_words(random_stream(0, 0).at(0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  const std::uint64_t ones = ~std::uint64_t{0};
  check_words(random_stream(ones, ones).at(ones), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
  // The digits of pi: counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0.
  check_words(random_stream(0x299f31d0a4093822, 0x0370734413198a2e).at(0x85a308d3243f6a88), 0xd16cfe09,
              0x94fdcceb, 0x5001e420, 0x24126ea1);
}

TEST_CASE("seed, stream and counter each change the draw; order does not") {
  const random_stream random(7, 3);
  const double tenth = random.uniform(10);
  random.uniform(11);
  CHECK(random.uniform(10) == tenth);
  CHECK(random.uniform(11) != tenth);
  CHECK(random_stream(8, 3).uniform(10) != tenth);
  CHECK(random_stream(7, 4).uniform(10) != tenth);
}

TEST_CASE("uniform numbers lie inside (0, 1) with the moments they should have") {
  const random_stream random(1, 1);
  constexpr int count = 200000;
  double sum = 0, squares = 0, least = 1, most = 0;
  for (int i = 0; i < count; ++i) {
    const double u = random.uniform(static_cast<std::uint64_t>(i));
    sum += u, squares += u * u, least = std::fmin(least, u), most = std::fmax(most, u);
  }
  CHECK(least > 0);
  CHECK(most < 1);
  CHECK(std::fabs(sum / count - 0.5) < 5 * std::sqrt(1.0 / 12 / count));
  CHECK(std::fabs(squares / count - 1.0 / 3) < 5 * std::sqrt(4.0 / 45 / count));
}

TEST_CASE("normal numbers have mean 0, variance 1, no skew and kurtosis 3") {
  const random_stream random(1, 2);
  constexpr int count = 200000;
  double moment[5] = {};
  for (int i = 0; i < count; ++i) {
    const double z = random.normal(static_cast<std::uint64_t>(i));
    REQUIRE(std::isfinite(z));
    for (int k = 1; k <= 4; ++k) moment[k] += std::pow(z, k) / count;
  }
  CHECK(std::fabs(moment[1]) < 5 * std::sqrt(1.0 / count));
  CHECK(std::fabs(moment[2] - 1) < 5 * std::sqrt(2.0 / count));
  CHECK(std::fabs(moment[3]) < 5 * std::sqrt(15.0 / count));
  CHECK(std::fabs(moment[4] - 3) < 5 * std::sqrt(96.0 / count));
}

TEST_CASE("integers fall below their bound, evenly") {
  const random_stream random(5, 6);
  int hits[7] = {};
  for (std::uint64_t i = 0; i < 70000; ++i) {
    const auto n = random.below(7, i);
    REQUIRE(n < 7);
    ++hits[n];
  }
  for (const int hit : hits) CHECK(std::abs(hit - 10000) < 5 * std::sqrt(10000.0 * 6 / 7));
  CHECK(random.below(1, 3) == 0);
  const std::uint64_t large = std::uint64_t{1} << 63;
  CHECK(random.below(large, 1) < large);
}

TEST_CASE("a stream is usable in constant expressions") {
  static_assert(random_stream(0, 0).at(0).value[0] == 0x6627e8d5);
  CHECK(random_stream(0, 0).at(0).value[3] == 0x9b00dbd8);
}
