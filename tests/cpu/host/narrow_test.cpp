// SPDX-License-Identifier: MIT
// Rows of narrow numbers by whatever instructions there are: the bits of one number at a time.
#include <dsv3/cpu/host/narrow.hpp>

#include <support/narrow_float.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

using namespace dsv3;

namespace {

const oracle::narrow_float& oracle_of(fp8_e4m3) { return oracle::e4m3; }
const oracle::narrow_float& oracle_of(fp8_e5m2) { return oracle::e5m2; }
const oracle::narrow_float& oracle_of(e5m6) { return oracle::e5m6; }

template <class From_, class Element_>
struct types {
  using From = From_;
  using Element = Element_;
};
#define DSV3_TYPES                                                                              \
  types<float, fp8_e4m3>, types<bf16, fp8_e4m3>, types<float, fp8_e5m2>, types<bf16, fp8_e5m2>, \
      types<double, fp8_e4m3>, types<float, e5m6>, types<bf16, e5m6>

std::vector<float> scales() {
  std::vector<float> result = {
      1,        0.5f,      0x1p-20f, 0x1p99f,     0x1p100f,
      0x1p110f, 0x1p-100f, 1e-37f,   1e-4f / 448, std::numeric_limits<float>::infinity()};
  const random_stream random(20260101, 11);
  for (std::uint64_t i = 0; i < 60; ++i)
    result.push_back(static_cast<float>(std::ldexp(1 + random.uniform(i), static_cast<int>(i % 24) - 20)));
  // Mantissas at both ends.
  for (const std::uint32_t mantissa : {1u, 2u, 0x7FFFFEu, 0x7FFFFFu, 0x124925u})
    result.push_back(std::bit_cast<float>((120u << 23) + mantissa));
  return result;
}

/// Numbers whose quotients lie at and beside every boundary of the format, and others.
template <class From>
std::vector<From> numbers(const oracle::narrow_float& format, float scale) {
  std::vector<From> result;
  const auto add = [&](float x) { result.push_back(From(x)); };
  for (const float boundary : support::boundaries(format)) {
    const float x = boundary * scale;
    const auto bits = std::bit_cast<std::uint32_t>(x);
    for (const int away : {-40, -17, -16, -5, -3, -2, -1, 0, 1, 2, 3, 5, 15, 16, 40}) {
      const float near = std::bit_cast<float>(bits + static_cast<std::uint32_t>(away));
      add(std::isfinite(x) && std::isfinite(near) ? near : x);
    }
  }
  const random_stream random(20260101, 12);
  for (std::uint64_t i = 0; i < 2000; ++i)
    add(static_cast<float>(scale * std::ldexp(random.normal(i), static_cast<int>(i % 20) - 6)));
  for (const std::uint32_t nan : {0x7FC00000u, 0xFFC00001u, 0x7F800001u}) add(std::bit_cast<float>(nan));
  return result;
}

}  // namespace

TEST_CASE_TEMPLATE("a row rounds as each of its numbers does", Types, DSV3_TYPES) {
  using From = typename Types::From;
  using Element = typename Types::Element;
  const oracle::narrow_float& format = oracle_of(Element());
  int wrong = 0;
  for (const float scale : scales()) {
    const std::vector<From> x = numbers<From>(format, scale);
    const auto count = static_cast<index_t>(x.size());
    std::vector<Element> row(x.size()), each(x.size());
    cpu::narrow(x.data(), cpu::one_scale{scale}, row.data(), count);
    for (index_t i = 0; i < count; ++i) {
      const auto n = static_cast<std::size_t>(i);
      const float number = static_cast<float>(x[n]);
      // A double quotient of floats rounds to the float that their exact quotient rounds to.
      const auto quotient = static_cast<float>(static_cast<double>(number) / static_cast<double>(scale));
      wrong += row[n].bits != format.round(quotient);
    }
    // One for every number, and one for every 128.
    constexpr index_t width = 96;
    cpu::scale_row<width, From> own;
    cpu::scale_row<40> tiles;
    for (const scale_kind kind : {scale_kind::real, scale_kind::power_of_two}) {
      std::vector<std::uint32_t> amax;
      for (index_t i = 0; i < width; ++i)
        amax.push_back(cpu::magnitude_bits((i % 3 == 1 ? 448 : 600) * scale));
      own.assign(amax.data(), width, 448, kind), tiles.assign(amax.data(), 40, 448, kind);
      for (index_t i = 0; i < width; ++i)
        wrong += own.scales[i] != tile_scale(cpu::magnitude(amax[static_cast<std::size_t>(i)]), 448, kind);
      const index_t in_tiles = std::min<index_t>(count, 40 * 128 - 27);
      cpu::narrow_tiles(x.data(), tiles, row.data(), in_tiles);
      for (index_t i = 0; i < in_tiles; ++i) {
        const auto n = static_cast<std::size_t>(i);
        wrong += row[n].bits != Element(static_cast<float>(x[n]) / tiles.scales[i / 128]).bits;
      }
      for (index_t i = 0; i + width <= count; i += width) {
        cpu::narrow(x.data() + i, own, each.data(), width);
        for (index_t k = 0; k < width; ++k) {
          const float number = static_cast<float>(x[static_cast<std::size_t>(i + k)]);
          wrong += each[static_cast<std::size_t>(k)].bits != Element(number / own.scales[k]).bits;
        }
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("rows of every length, and nothing after them", Types, DSV3_TYPES) {
  using From = typename Types::From;
  using Element = typename Types::Element;
  const random_stream random(20260101, 13);
  std::vector<From> x;
  for (std::uint64_t i = 0; i < 200; ++i) x.push_back(From(static_cast<float>(random.normal(i))));
  int wrong = 0;
  for (index_t count = 0; count < 200; ++count) {
    std::vector<Element> codes(201, Element::from_bits(0x55));
    std::vector<From> back(201, From(-7.0f));
    cpu::narrow(x.data(), cpu::one_scale{0.007f}, codes.data(), count);
    cpu::widen(codes.data(), 0.007f, back.data(), count);
    std::uint32_t largest = 0;
    for (index_t i = 0; i <= 200; ++i) {
      const auto n = static_cast<std::size_t>(i);
      if (i < count) {
        wrong += codes[n].bits != Element(static_cast<float>(x[n]) / 0.007f).bits;
        wrong +=
            static_cast<double>(back[n]) != static_cast<double>(From(static_cast<float>(codes[n]) * 0.007f));
        largest = std::max<std::uint32_t>(largest, cpu::magnitude_bits(x[n]));
      } else {
        wrong += codes[n].bits != 0x55 || static_cast<double>(back[n]) != -7;
      }
    }
    wrong += cpu::largest_magnitude(x.data(), count) != largest;
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("every code widens as it does alone", Types, DSV3_TYPES) {
  using From = typename Types::From;
  using Element = typename Types::Element;
  std::vector<Element> codes;
  constexpr int count = sizeof(Element) == 1 ? 256 : 4096;
  for (int code = 0; code < count; ++code)
    codes.push_back(Element::from_bits(static_cast<decltype(Element().bits)>(code)));
  int wrong = 0;
  for (const float scale : scales()) {
    std::vector<From> row(count), by(count);
    const std::vector<float> same(count, scale);
    cpu::widen(codes.data(), scale, row.data(), count);
    cpu::widen(codes.data(), same.data(), by.data(), count);
    for (std::size_t i = 0; i < count; ++i) {
      const From expected = From(static_cast<float>(codes[i]) * scale);
      for (const From found : {row[i], by[i]})
        wrong += static_cast<float>(expected) != static_cast<float>(found) &&
                 !(std::isnan(static_cast<float>(expected)) && std::isnan(static_cast<float>(found)));
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("magnitudes of tiles and columns leave NaN out", From, float, bf16, double) {
  constexpr index_t rows = 37, columns = 300, stride = 311;
  const random_stream random(20260101, 15);
  for (const bool hurt : {false, true}) {
    std::vector<From> x;
    for (std::uint64_t i = 0; i < rows * stride; ++i) x.push_back(From(static_cast<float>(random.normal(i))));
    if (hurt) x[5 * stride + 70] = x[9 * stride + 299] = From(std::numeric_limits<float>::quiet_NaN());
    std::vector<cpu::magnitude_of<From>> found(columns, cpu::magnitude_bits(From(0.5f)));
    cpu::raise_magnitudes(x.data(), stride, rows, found.data(), columns);
    int wrong = 0;
    for (index_t c = 0; c < columns; ++c) {
      std::uint32_t largest = cpu::magnitude_bits(From(0.5f));
      for (index_t r = 0; r < rows; ++r)
        largest = std::max<std::uint32_t>(largest,
                                          cpu::magnitude_bits(x[static_cast<std::size_t>(r * stride + c)]));
      wrong += found[static_cast<std::size_t>(c)] != largest;
    }
    for (index_t r = 0; r < rows; ++r)
      for (const index_t count : {1, 127, 128}) {
        const From* row = x.data() + r * stride;
        wrong += cpu::largest_of_tile(row, count) != cpu::largest_magnitude(row, count);
      }
    CHECK(wrong == 0);
  }
}

TEST_CASE("bytes are transposed") {
  const auto on_line = [](std::vector<std::uint8_t>& bytes) {
    return bytes.data() + (0 - reinterpret_cast<std::uintptr_t>(bytes.data())) % 64;
  };
  std::vector<std::uint8_t> from_room(128 * 128 + 64);
  std::uint8_t* from = on_line(from_room);
  const random_stream random(20260101, 14);
  for (std::size_t i = 0; i < 128 * 128; ++i) from[i] = static_cast<std::uint8_t>(random.at(i).value[0]);
  // Of rows that are whole lines, long ones go past the caches.
  for (const std::size_t stride : {150u, 192u, 4096u, 4097u}) {
    CAPTURE(stride);
    std::vector<std::uint8_t> to_room(128 * stride + 64, 7);
    std::uint8_t* to = on_line(to_room);
    cpu::transpose_bytes(from, to, static_cast<index_t>(stride));
    int wrong = 0;
    for (std::size_t c = 0; c < 128; ++c)
      for (std::size_t r = 0; r < stride; ++r)
        wrong += to[c * stride + r] != (r < 128 ? from[128 * r + c] : 7);
    CHECK(wrong == 0);
  }
}
