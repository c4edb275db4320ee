// SPDX-License-Identifier: MIT
#include <dsv3/cpu/host/limited_sum.hpp>

#include <oracle/limited_sum.hpp>
#include <oracle/scaled_matrix.hpp>
#include <support/random_bits.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace dsv3;

namespace {

constexpr index_t lanes = cpu::vector_lanes<float>, rows = 4;

struct codes {
  oracle::narrow_format format;
  std::vector<std::uint8_t> bits;
};

/// Finite codes; exponents of all sizes, or only the uppermost `span` ones.
codes random_codes(oracle::narrow_format format, index_t count, int span, std::uint64_t stream) {
  codes result{format, {}};
  for (index_t i = 0; i < count; ++i) {
    const std::uint64_t bits = support::random_bits(stream, static_cast<std::uint64_t>(i));
    const unsigned range = std::min(format.finite, static_cast<unsigned>(span) << format.mantissa_bits());
    const unsigned magnitude = format.finite - 1 - static_cast<unsigned>(bits % range);
    result.bits.push_back(static_cast<std::uint8_t>(magnitude | (bits >> 60 & 128u) | (bits >> 56 & 128u)));
  }
  return result;
}

std::vector<float> values(const codes& from) {
  std::vector<float> result;
  for (const std::uint8_t code : from.bits) result.push_back(static_cast<float>(from.format.value(code)));
  return result;
}

/// The library's sums and the oracle's, bit by bit; they begin with `start`.
void agrees(const codes& a, const codes& b, index_t depth, float start) {
  const std::vector<float> x = values(a), y = values(b);
  std::vector<float> sums(rows * lanes, start), alone(lanes, start);
  cpu::limited_sum::add<rows>(depth, x.data(), depth, y.data(), sums.data(), lanes);
  int exponent = 0;
  const auto mantissa = static_cast<std::int64_t>(std::ldexp(std::frexp(start, &exponent), 24));
  for (index_t r = 0; r < rows; ++r) {
    std::fill(alone.begin(), alone.end(), start);
    cpu::limited_sum::add<1>(depth, x.data() + r * depth, depth, y.data(), alone.data(), lanes);
    for (index_t j = 0; j < lanes; ++j) {
      std::vector<oracle::binary_number> products;
      for (index_t i = 0; i < depth; ++i) {
        const auto p = a.format.split(a.bits[static_cast<std::size_t>(r * depth + i)]),
                   q = b.format.split(b.bits[static_cast<std::size_t>(i * lanes + j)]);
        products.push_back({p.mantissa * q.mantissa, p.exponent + q.exponent});
      }
      const double expected = oracle::limited_sum({mantissa, exponent - 24}, products).value();
      REQUIRE(static_cast<double>(sums[static_cast<std::size_t>(r * lanes + j)]) == expected);
      REQUIRE(static_cast<double>(alone[static_cast<std::size_t>(j)]) == expected);
    }
  }
}

/// The sum of these numbers times one, in every lane the same.
float sum_of(const std::vector<float>& numbers, float start = 0) {
  std::vector<float> ones(numbers.size() * lanes, 1.0f), sums(lanes, start);
  cpu::limited_sum::add<1>(static_cast<index_t>(numbers.size()), numbers.data(), 0, ones.data(), sums.data(),
                           lanes);
  for (const float sum : sums) CHECK(sum == sums[0]);
  return sums[0];
}

}  // namespace

TEST_CASE("limited_sum agrees with exact integers") {
  std::uint64_t stream = 1;
  for (const index_t depth : {1, 2, 31, 32, 33, 64, 100, 128, 1000})
    for (const int span : {1, 3, 32})
      for (const auto& format : {oracle::e4m3, oracle::e5m2})
        for (const float start : {0.0f, 1.0f, -3.14159f, 1e6f, -0x1p40f, 0x1p-20f}) {
          const codes a = random_codes(format, rows * depth, span, stream++),
                      b = random_codes(oracle::e4m3, depth * lanes, span, stream++);
          agrees(a, b, depth, start);
        }
}

TEST_CASE("limited_sum cuts below the largest of a step") {
  std::vector<float> step(32, 0x1p-14f);
  step[7] = 1;
  CHECK(sum_of(step) == 1);  // each alone is below the last bit
  for (float& number : step) number = number == 1 ? 1 : 0x1p-13f;
  CHECK(sum_of(step) == 1 + 31 * 0x1p-13f);
  for (float& number : step) number = number == 1 ? 1 : 0x1.8p-13f;
  CHECK(sum_of(step) == 1 + 31 * 0x1p-13f);  // and what is below it is lost
  for (float& number : step) number = number == 1 ? -1 : -0x1.8p-13f;
  CHECK(sum_of(step) == -1 - 31 * 0x1p-13f);  // towards zero
  for (float& number : step) number = number == -1 ? 1 : -0x1.8p-13f;
  CHECK(sum_of(step) == 1 - 31 * 0x1p-13f);
}

TEST_CASE("limited_sum cuts below what it holds") {
  CHECK(sum_of(std::vector<float>(32, 1), 8192) == 8192 + 32);
  CHECK(sum_of(std::vector<float>(32, 1), 16384) == 16384);
  CHECK(sum_of(std::vector<float>(3200, 1)) == 3200);
  // 16384 ones fill 14 bits; another million would change nothing.
  CHECK(sum_of(std::vector<float>(20000, 1)) == 16384);
}

TEST_CASE("limited_sum of nothing is what it was") {
  for (const float start : {0.0f, 1.0f, -0x1.ffep99f, 0x1p-100f}) {
    CHECK(sum_of({}, start) == start);
    CHECK(sum_of(std::vector<float>(64, 0), start) == start);
  }
}
