// SPDX-License-Identifier: MIT
#include <dsv3/cpu/host/math.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

using namespace dsv3;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

float of_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

/// |found - exact| in units of the spacing of floats at `exact`; subnormal numbers have the smallest spacing.
double ulps(float found, double exact) {
  const int exponent = std::max(std::ilogb(exact), -126);
  return std::fabs(static_cast<double>(found) - exact) / std::ldexp(1.0, exponent - 23);
}

/// The worst error of `function` over `inputs`, computed in a loop as the library's bodies compute it.
/// Results must be infinite where the exact value is beyond every float.
template <class Function, class Exact>
double worst(const std::vector<float>& inputs, Function&& function, Exact&& exact) {
  std::vector<float> outputs(inputs.size());
  const float* in = inputs.data();
  float* out = outputs.data();
  const auto count = static_cast<std::int64_t>(inputs.size());
  DSV3_SIMD
  for (std::int64_t i = 0; i < count; ++i) out[i] = function(in[i]);
  double result = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const double expected = exact(static_cast<double>(inputs[i]));
    if (std::isinf(static_cast<float>(expected))) {
      if (outputs[i] != static_cast<float>(expected)) return INFINITY;
    } else if (!(ulps(outputs[i], expected) <= result)) {  // NaN too
      result = ulps(outputs[i], expected);
    }
  }
  return result;
}

/// Bit patterns from `first` to `last`, both inclusive, `stride` apart: even in the exponent, so every
/// magnitude has its share.
std::vector<float> patterns(float first, float last, std::uint32_t stride) {
  std::vector<float> result;
  const auto end = std::uint64_t{std::bit_cast<std::uint32_t>(last)};
  for (std::uint64_t bits = std::bit_cast<std::uint32_t>(first); bits <= end; bits += stride)
    result.push_back(of_bits(static_cast<std::uint32_t>(bits)));
  return result;
}

const auto exponential = [](float x) { return cpu::exponential(x); };
const auto exact_exponential = [](double x) { return std::exp(x); };
constexpr float largest = std::numeric_limits<float>::max();

}  // namespace

TEST_CASE("exponential is within 2 ulp of every float") {
  CHECK(worst(patterns(0.0f, largest, 997), exponential, exact_exponential) <= 2);
  CHECK(worst(patterns(-0.0f, -largest, 997), exponential, exact_exponential) <= 2);
  CHECK(worst(patterns(0.25f, 100.0f, 31), exponential, exact_exponential) <= 2);
  CHECK(worst(patterns(-0.25f, -86.0f, 31), exponential, exact_exponential) <= 2);
}

TEST_CASE("exponential is exact at its edges") {
  // Every float where the result becomes infinite, and where it becomes subnormal, then zero.
  CHECK(worst(patterns(88.72f, 88.73f, 1), exponential, exact_exponential) <= 2);
  CHECK(worst(patterns(-87.33f, -87.35f, 1), exponential, exact_exponential) <= 2);
  CHECK(worst(patterns(-86.0f, -105.0f, 3), exponential, exact_exponential) <= 2);
  CHECK(cpu::exponential(0.0f) == 1);
  CHECK(cpu::exponential(-0.0f) == 1);
  CHECK(cpu::exponential(1e-45f) == 1);
  CHECK(cpu::exponential(88.0f) < infinity);
  CHECK(cpu::exponential(89.0f) == infinity);
  CHECK(cpu::exponential(largest) == infinity);
  CHECK(cpu::exponential(infinity) == infinity);
  CHECK(cpu::exponential(-103.0f) > 0);
  CHECK(cpu::exponential(-104.0f) == 0);
  CHECK(cpu::exponential(-largest) == 0);
  CHECK(cpu::exponential(-infinity) == 0);
  CHECK(!std::signbit(cpu::exponential(-infinity)));
}

TEST_CASE("exponential of every kind of NaN is NaN") {
  for (const std::uint32_t bits :
       {0x7FC00000u, 0xFFC00000u, 0x7F800001u, 0xFF800001u, 0x7FFFFFFFu, 0xFFFFFFFFu})
    CHECK(std::isnan(cpu::exponential(of_bits(bits))));
  CHECK(std::isnan(cpu::exponential(std::numeric_limits<double>::quiet_NaN())));
}

TEST_CASE("exponential grows where its argument grows by more than its error") {
  float before = 0;
  for (float x = -104; x < 88.7f; x += 1.0f / 1024) {
    const float value = cpu::exponential(x);
    if (value < before) FAIL("exponential(" << x << ") is smaller than that of its left neighbour");
    before = value;
  }
}

TEST_CASE("square_root is within 1 ulp of every float that is not negative") {
  const auto root = [](float x) { return cpu::square_root(x); };
  const auto exact = [](double x) { return std::sqrt(x); };
  CHECK(worst(patterns(1e-45f, largest, 499), root, exact) <= 1);
  CHECK(worst(patterns(1e-45f, of_bits(100000), 1), root, exact) <= 1);
  CHECK(worst(patterns(1.0f, 4.0f, 5), root, exact) <= 1);
  CHECK(cpu::square_root(0.0f) == 0);
  CHECK(cpu::square_root(1.0f) == 1);
  CHECK(cpu::square_root(largest) < infinity);
  CHECK(cpu::square_root(infinity) == infinity);
  CHECK(std::isnan(cpu::square_root(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("sigmoid keeps its digits and saturates") {
  const auto sigmoid = [](float x) { return cpu::sigmoid(x); };
  const auto exact = [](double x) { return 1 / (1 + std::exp(-x)); };
  CHECK(worst(patterns(0.0f, largest, 997), sigmoid, exact) <= 4);
  CHECK(worst(patterns(-0.0f, -87.0f, 97), sigmoid, exact) <= 4);
  CHECK(cpu::sigmoid(0.0f) == 0.5f);
  CHECK(cpu::sigmoid(infinity) == 1);
  CHECK(cpu::sigmoid(-infinity) == 0);
  CHECK(cpu::sigmoid(-100.0f) < 1e-37f);
  CHECK(std::isnan(cpu::sigmoid(std::numeric_limits<float>::quiet_NaN())));
  CHECK(cpu::sigmoid(-2.0) == 1 / (1 + std::exp(2.0)));
}
