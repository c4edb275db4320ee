// SPDX-License-Identifier: MIT
#include <dsv3/exec/random.hpp>
#include <dsv3/op/sample/exponential.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

using namespace dsv3;
using op::exact_exponential;
using op::token_weight;

namespace {

double error_in_ulp(double x) {
  const long double exact = std::exp(static_cast<long double>(x));
  const double found = exact_exponential(x), nearest = static_cast<double>(exact);
  const double ulp = std::nextafter(nearest, INFINITY) - nearest;
  return static_cast<double>(std::fabs(static_cast<long double>(found) - exact)) / ulp;
}

}  // namespace

TEST_CASE("the exponential is within one unit in the last place") {
  const random_stream random(20260101, 1);
  double worst = 0;
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const double u = random.uniform(i);
    for (const double x : {-30 * u, 1400 * u - 700, std::ldexp(u - 0.5, -int(i % 60))})
      worst = std::max(worst, error_in_ulp(x));
  }
  for (int n = -1000; n <= 1000; ++n) {  // where one reduction ends and the next begins
    const double edge = (n + 0.5) * 0.6931471805599453;
    for (const double x : {edge, std::nextafter(edge, -INFINITY), std::nextafter(edge, INFINITY)})
      worst = std::max(worst, error_in_ulp(x));
  }
  MESSAGE("worst error " << worst << " ulp");
  CHECK(worst <= 1);
  CHECK(worst > 0.4);  // the measure itself works
  CHECK(exact_exponential(0) == 1);
  CHECK(exact_exponential(-0.0) == 1);
}

TEST_CASE("the exponential has these bits on every machine") {
  CHECK(exact_exponential(-1) == 0x1.78b56362cef38p-2);
  CHECK(exact_exponential(-0.3) == 0x1.7b4c869c37c05p-1);
  CHECK(exact_exponential(-12.345) == 0x1.240572f47cb82p-18);
  CHECK(exact_exponential(-29.75) == 0x1.0e9036ac4012bp-43);
  CHECK(exact_exponential(0.34) == 0x1.67aaa532108bdp+0);
  CHECK(exact_exponential(123.456) == 0x1.1428e1cbc0143p+178);
}

TEST_CASE("weights are the floor of the scaled exponential, and ordered as their arguments") {
  CHECK(token_weight(0) == std::uint64_t{1} << op::weight_bits);
  CHECK(token_weight(-1e-300) == std::uint64_t{1} << op::weight_bits);
  for (const double x : {-29.9, -30.0, -31.0, -1e5, -1e300, -double(INFINITY)}) CHECK(token_weight(x) == 0);
  CHECK(token_weight(-29.8) == 1);  // 43 ln 2 = 29.805...
  const random_stream random(20260101, 2);
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const double x = -30 * random.uniform(i);
    const long double exact = std::exp(static_cast<long double>(x)) * 0x1p43L;
    const long double below = exact - static_cast<long double>(token_weight(x));
    REQUIRE(below > -0.01L);
    REQUIRE(below < 1.01L);
    REQUIRE(token_weight(x) <= token_weight(x + 0x1p-50));
  }
  // As the logits of a model are: neighbours in float.
  for (float logit = 0; logit > -29.9f; logit = std::nextafter(logit * 1.001f, -100.0f))
    REQUIRE(token_weight(std::nextafter(logit, -100.0f)) <= token_weight(logit));
}
