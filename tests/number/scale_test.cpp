// SPDX-License-Identifier: MIT
// Scales of tiles: real, powers of two in both directions, and their 8-bit storage.
#include <dsv3/exec/random.hpp>
#include <dsv3/number/scale.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>

using namespace dsv3;

namespace {

// By the exponent that the mathematics library finds.
double power_above(double x) {
  int exponent;
  return std::frexp(x, &exponent) == 0.5 ? x : std::ldexp(1.0, exponent);
}
double power_below(double x) {
  int exponent;
  std::frexp(x, &exponent);
  return std::ldexp(0.5, exponent);
}

// Every power of two from `first` on, its neighbours, and numbers between.
template <class Visit>
void each_positive(int first, Visit&& visit) {
  const random_stream random(9, 10);
  for (int exponent = first; exponent < 128; ++exponent) {
    const auto power = static_cast<float>(std::ldexp(1.0, exponent));
    visit(power);
    visit(std::nextafterf(power, 0.0f));
    visit(std::nextafterf(power, std::numeric_limits<float>::infinity()));
    for (std::uint64_t i = 0; i < 16; ++i)
      visit(static_cast<float>(
          std::ldexp(1 + random.uniform(static_cast<std::uint64_t>(exponent + 200) * 16 + i), exponent)));
  }
}

}  // namespace

TEST_CASE("powers of two lie next to the number") {
  int wrong = 0;
  each_positive(-120, [&](float x) {
    const double up = power_above(static_cast<double>(x)), down = power_below(static_cast<double>(x));
    const double found = power_of_two_up(x);
    wrong += up > 0x1p127 ? !std::isinf(found) : found != up;
    wrong += static_cast<double>(power_of_two_down(x)) != down;
  });
  CHECK(wrong == 0);
  CHECK(std::isinf(power_of_two_up(std::numeric_limits<float>::infinity())));
}

TEST_CASE("a tile's scale maps its largest magnitude to the format's largest value") {
  for (const float largest : {448.0f, 57344.0f, 65024.0f}) {
    int wrong = 0;
    each_positive(-13, [&](float amax) {
      if (amax < smallest_amax) return;
      const float real = tile_scale(amax, largest, scale_kind::real);
      wrong += real != amax / largest;
      const double up = tile_scale(amax, largest, scale_kind::power_of_two);
      const double down = tile_scale(amax, largest, scale_kind::power_of_two_down);
      wrong += up != power_above(real) || down != power_below(real);
      wrong += amax / up > static_cast<double>(largest) * (1 + 1e-7);  // nothing saturates
      wrong += amax / down >= 2.0 * static_cast<double>(largest) * (1 + 1e-7);
    });
    CHECK(wrong == 0);
    for (const scale_kind kind :
         {scale_kind::real, scale_kind::power_of_two, scale_kind::power_of_two_down}) {
      const float floor = tile_scale(smallest_amax, largest, kind);
      CHECK(floor > 0);
      CHECK(tile_scale(0.0f, largest, kind) == floor);
      CHECK(tile_scale(9e-5f, largest, kind) == floor);
      CHECK(std::isinf(tile_scale(std::numeric_limits<float>::infinity(), largest, kind)));
    }
  }
}

TEST_CASE("the scale of a tile's largest value times its scale is its scale") {
  // Whatever the largest magnitude: its mantissa decides, in two neighbouring powers of two because the
  // format's largest value has one, too. Without this, quantising what was dequantised would change scales.
  for (const float largest : {448.0f, 57344.0f, 65024.0f}) {
    int wrong = 0;
    for (std::uint32_t mantissa = 0; mantissa < 1u << 24; ++mantissa) {
      const float amax = std::bit_cast<float>((127u << 23) + mantissa);
      const float scale = tile_scale(amax, largest, scale_kind::real);
      wrong += tile_scale(scale * largest, largest, scale_kind::real) != scale;
    }
    const float floor = tile_scale(0, largest, scale_kind::real);
    wrong += tile_scale(floor * largest, largest, scale_kind::real) != floor;
    CHECK(wrong == 0);
  }
}

TEST_CASE("UE8M0 stores an exponent and rounds up to it") {
  int wrong = 0;
  for (int code = 1; code < 255; ++code) {
    const auto stored = ue8m0::from_bits(static_cast<std::uint8_t>(code));
    const double value = static_cast<float>(stored);
    wrong += value != std::ldexp(1.0, code - 127);
    wrong += ue8m0(static_cast<float>(value)).bits != code;
  }
  CHECK(static_cast<double>(static_cast<float>(ue8m0::from_bits(0))) == 0x1p-127);
  each_positive(-126, [&](float x) {
    const double expected = std::fmin(std::fmax(power_above(static_cast<double>(x)), 0x1p-126), 0x1p127);
    wrong += static_cast<double>(static_cast<float>(ue8m0(x))) != expected;
  });
  CHECK(wrong == 0);
  CHECK(ue8m0(1e-45f).bits == 1);
  CHECK(ue8m0(std::numeric_limits<float>::max()).bits == 254);
  CHECK(static_cast<float>(ue8m0()) == 1.0f);
}
