// SPDX-License-Identifier: MIT
// Fill-in-the-middle: the share, the cuts, and that nothing but seed, pass and document decides.
#include <dsv3/text/fill_in_middle.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <string>
#include <string_view>

using namespace dsv3;

namespace {
std::string whole(const fill_in_middle::parts& parts) {
  return std::string(parts.prefix).append(parts.middle).append(parts.suffix);
}
}  // namespace

TEST_CASE("the share of documents is the rate, and 0 and 1 are none and all") {
  const std::string text = "some text that is long enough";
  for (const double rate : {0.0, 0.1, 0.5, 1.0}) {
    const fill_in_middle fim{rate, 7};
    index_t cut = 0;
    for (index_t d = 0; d < 10000; ++d) cut += fim.cut(text, d, 0).has_value();
    const double deviation = std::sqrt(10000 * rate * (1 - rate));
    CHECK(std::fabs(static_cast<double>(cut) - 10000 * rate) <= 4 * deviation);
  }
}

TEST_CASE("the parts are the document, cut between characters and nowhere else") {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";  // 1, 2, 3, 4 and 1 bytes
  std::map<std::pair<std::size_t, std::size_t>, index_t> cuts;
  const fill_in_middle fim{1, 3};
  constexpr index_t documents = 36000;
  for (index_t d = 0; d < documents; ++d) {
    const auto parts = fim.cut(text, d, 2);
    REQUIRE(parts.has_value());
    REQUIRE(whole(*parts) == text);
    ++cuts[{parts->prefix.size(), parts->prefix.size() + parts->middle.size()}];
  }
  const std::size_t places[] = {0, 1, 3, 6, 10, 11};
  double distance = 0;  // chi-square with 20 degrees of freedom: 45.3 at 0.1 %
  index_t counted = 0;
  for (std::size_t i = 0; i < 6; ++i)
    for (std::size_t j = i; j < 6; ++j) {
      const double expected = documents / 36.0 * (i == j ? 1 : 2);
      const index_t found = cuts[{places[i], places[j]}];
      distance +=
          (static_cast<double>(found) - expected) * (static_cast<double>(found) - expected) / expected;
      counted += found;
    }
  CHECK(counted == documents);  // no cut inside a character
  CHECK(distance < 50);
}

TEST_CASE("empty text and text that is no UTF-8 have parts too") {
  const fill_in_middle fim{1, 3};
  for (const std::string& text : {std::string(), std::string("\x80\x80\x80"), std::string("\xFF\x80g\xC3")})
    for (index_t d = 0; d < 50; ++d) CHECK(whole(fim.cut(text, d, 0).value()) == text);
}

TEST_CASE("seed, pass and document decide, and nothing else") {
  const std::string text(1000, 'x');
  const auto places = [&](std::uint64_t seed, index_t document, index_t pass) {
    const auto parts = fill_in_middle{1, seed}.cut(text, document, pass);
    return std::pair(parts->prefix.size(), parts->middle.size());
  };
  CHECK(places(1, 2, 3) == places(1, 2, 3));
  CHECK(places(1, 2, 3) != places(2, 2, 3));
  CHECK(places(1, 2, 3) != places(1, 3, 3));
  CHECK(places(1, 2, 3) != places(1, 2, 4));
}
