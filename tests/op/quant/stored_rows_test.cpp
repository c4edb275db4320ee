// SPDX-License-Identifier: MIT
// Rows in fewer bytes: codes, scales and packing against tables of the formats' values.
#include <dsv3/cpu/quant/stored_rows.hpp>

#include <oracle/stored_rows.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

constexpr index_t widths[] = {1, 7, 8, 127, 128, 129, 261, 576};
constexpr stored_format formats[] = {stored_format::bf16, stored_format::e4m3, stored_format::e5m6};

/// Rows of very different sizes, stored and loaded.
template <class P>
struct fixture {
  narrow_rows_config config;
  guarded<activation<P>> x, y;
  guarded<std::uint8_t> bytes;
  guarded<float> scales;
  guarded<std::int32_t, 1> offsets{0, 4}, counts{0, 3};

  fixture(index_t rows, index_t columns, stored_format format)
      : config{rows, columns, format},
        x(columns % 8 == 0 ? 8 : 3, rows, columns),
        y(columns % 8 == 0 ? 8 : 5, rows, columns),
        bytes(config.row_bytes() % 16 == 0 ? 16 : 7, rows, config.row_bytes()),
        scales(2, rows, config.row_scales()) {
    const random_stream random(20260101, 8);
    x.fill([&](index_t i) {
      const auto at = static_cast<std::uint64_t>(i);
      return random.normal(at) * std::exp2(40 * random.uniform(at + 1000000) - 20);
    });
  }

  narrow_rows narrow() { return {config, bytes, config.row_scales() == 0 ? view<float, 2>{} : scales.get()}; }
  /// Rows 0, 1 and 4, 5, 6 of seven; one group is empty.
  row_groups some() {
    const std::int32_t first[] = {0, 4, 4, 7}, live[] = {2, 0, 3};
    for (index_t g = 0; g < 4; ++g) offsets.get()(g) = first[g];
    for (index_t g = 0; g < 3; ++g) counts.get()(g) = live[g];
    return {offsets, counts};
  }
  void store(int threads, scale_kind kind, row_groups groups = {}) {
    support::run(threads, [&](auto& ctx) {
      op::stored_rows<P>::store(ctx, {.x = x, .y = narrow(), .scales = kind, .groups = groups});
    });
  }
  void load(int threads, row_groups groups = {}) {
    support::run(threads, [&](auto& ctx) {
      op::stored_rows<P>::load(ctx, {.x = narrow(), .y = y, .groups = groups});
    });
  }
  bool intact() { return x.intact() && y.intact() && bytes.intact() && scales.intact(); }

  /// x as the formats see it.
  std::vector<double> row(index_t r) {
    std::vector<double> result;
    for (index_t i = 0; i < config.columns; ++i)
      result.push_back(static_cast<double>(static_cast<float>(x.get()(r, i))));
    return result;
  }
};

template <class P>
double rounded(double value) {
  return static_cast<double>(activation<P>(static_cast<float>(value)));
}

}  // namespace

TEST_CASE_TEMPLATE("stored rows hold the codes and scales of the oracle", P, fp64_reference, fp32, bf16_mixed,
                   fp8_tilewise) {
  for (const index_t width : widths)
    for (const stored_format format : {stored_format::e4m3, stored_format::e5m6})
      for (const scale_kind kind : {scale_kind::real, scale_kind::power_of_two}) {
        CAPTURE(width);
        CAPTURE(int(format));
        fixture<P> f(3, width, format);
        f.store(2, kind), f.load(2);
        const oracle::narrow_format& table = format == stored_format::e4m3 ? oracle::e4m3 : oracle::e5m6;
        const int sign = 1 << (table.exponent_bits + table.mantissa_bits);
        for (index_t r = 0; r < 3; ++r) {
          const auto expected = oracle::narrow(f.row(r), table, kind == scale_kind::power_of_two);
          for (std::size_t i = 0; i < expected.scales.size(); ++i)
            CHECK(static_cast<double>(f.scales.get()(r, i)) == expected.scales[i]);
          const std::vector<std::uint8_t> bytes =
              format == stored_format::e4m3
                  ? std::vector<std::uint8_t>(expected.codes.begin(), expected.codes.end())
                  : oracle::pack_twelve(expected.codes);
          REQUIRE(static_cast<index_t>(bytes.size()) == f.config.row_bytes());
          CHECK(std::memcmp(bytes.data(), f.bytes.get()[r].data(), bytes.size()) == 0);
          index_t wrong = 0;
          for (std::size_t i = 0; i < expected.codes.size(); ++i) {
            const int code = expected.codes[i];
            const double magnitude = table.value(code % sign), value = code < sign ? magnitude : -magnitude;
            const double found = static_cast<double>(f.y.get()(r, i));
            wrong += found != rounded<P>(value * expected.scales[i / 128]);
          }
          CHECK(wrong == 0);
        }
        CHECK(f.intact());
      }
}

TEST_CASE_TEMPLATE("rows in bf16 are the nearest", P, fp64_reference, fp32, fp8_tilewise) {
  for (const index_t width : widths) {
    fixture<P> f(4, width, stored_format::bf16);
    f.x.get()(1, 0) = activation<P>(INFINITY);
    f.store(2, scale_kind::real), f.load(2);
    for (index_t r = 0; r < 4; ++r)
      for (index_t i = 0; i < width; ++i)
        CHECK(static_cast<double>(f.y.get()(r, i)) == static_cast<double>(bf16(f.x.get()(r, i))));
    CHECK(f.intact());
  }
}

TEST_CASE("a stored row takes the bytes that the format says") {
  const auto bytes = [](index_t columns, stored_format format) {
    return narrow_rows_config{1, columns, format}.row_bytes();
  };
  CHECK(bytes(16384, stored_format::bf16) == 32768);
  CHECK(bytes(16384, stored_format::e4m3) == 16384);
  CHECK(bytes(16384, stored_format::e5m6) == 24576);
  CHECK(bytes(9, stored_format::e5m6) == 24);
  CHECK(narrow_rows_config{1, 129, stored_format::e4m3}.row_scales() == 2);
  CHECK(narrow_rows_config{1, 129, stored_format::bf16}.row_scales() == 0);
  // A bundle's bytes: rows and scales on cache lines.
  CHECK(bytes_of<narrow_rows>(narrow_rows_config{2, 256, stored_format::e4m3}) == 512 + 64);
  CHECK(bytes_of<narrow_rows>(narrow_rows_config{2, 256, stored_format::bf16}) == 1024);
  CHECK(bytes_of<narrow_rows>(narrow_rows_config{0, 256, stored_format::e4m3}) == 0);
}

TEST_CASE("only rows of groups are stored and loaded") {
  for (const stored_format format : formats)
    for (const int threads : {1, 3}) {
      CAPTURE(int(format));
      fixture<fp8_tilewise> f(7, 136, format), whole(7, 136, format);
      f.store(threads, scale_kind::real, f.some()), f.load(threads, f.some());
      whole.store(threads, scale_kind::real), whole.load(threads);
      const fixture<fp8_tilewise> blank(7, 136, format);
      for (index_t r = 0; r < 7; ++r) {
        const bool live = r < 2 || r > 3;
        auto& expected = live ? whole : const_cast<fixture<fp8_tilewise>&>(blank);
        const auto same = [&](auto& a, auto& b) {
          const auto row = a.get()[r], other = b.get()[r];
          return std::memcmp(row.data(), other.data(),
                             static_cast<std::size_t>(row.size()) * sizeof(*row.data())) == 0;
        };
        CHECK(same(f.bytes, expected.bytes));
        CHECK(same(f.y, expected.y));
        if (format != stored_format::bf16) CHECK(same(f.scales, expected.scales));
      }
      CHECK(f.intact());
    }
}

TEST_CASE("what is not finite comes back as NaN, not saturated") {
  for (const stored_format format : {stored_format::e4m3, stored_format::e5m6}) {
    fixture<fp8_tilewise> f(2, 256, format);
    f.x.get()(0, 5) = bf16(NAN), f.x.get()(1, 200) = bf16(-INFINITY);
    f.store(1, scale_kind::real), f.load(1);
    for (index_t i = 0; i < 128; ++i) {
      CHECK(std::isnan(f.y.get()(0, i)) == (i == 5));
      CHECK(std::isfinite(f.y.get()(1, i)));
    }
    CHECK(std::isnan(f.y.get()(1, 200)));
  }
}

TEST_CASE("zeros and the smallest numbers keep a scale") {
  fixture<fp8_tilewise> f(1, 128, stored_format::e4m3);
  f.x.fill([](index_t i) { return i == 3 ? 1e-30 : 0; });
  f.store(1, scale_kind::real), f.load(1);
  CHECK(f.scales.get()(0, 0) == 1e-4f / 448);
  for (index_t i = 0; i < 128; ++i) CHECK(static_cast<float>(f.y.get()(0, i)) == 0);
}

TEST_CASE("what was loaded is stored without rounding again") {
  for (const stored_format format : formats) {
    fixture<fp32> f(5, 301, format), again(5, 301, format);
    f.store(1, scale_kind::power_of_two), f.load(1);
    again.x.assign(f.y.values());
    again.store(3, scale_kind::power_of_two), again.load(3);
    CHECK(again.y.same_bits(f.y));
  }
}

TEST_CASE("no rows and no columns are nothing to do") {
  for (const stored_format format : formats) {
    fixture<fp8_tilewise> none(0, 40, format), thin(4, 0, format);
    none.store(2, scale_kind::real), none.load(2);
    thin.store(2, scale_kind::real), thin.load(2);
    CHECK(none.intact());
    CHECK(thin.intact());
  }
}

TEST_CASE("stored_rows says what does not fit") {
  fixture<fp8_tilewise> f(3, 40, stored_format::e4m3);
  auto ctx = support::context(1);
  narrow_rows narrow = f.narrow();
  narrow.config.columns = 41;
  CHECK(support::raised([&] { op::stored_rows<fp8_tilewise>::store(ctx, {.x = f.x, .y = narrow}); }) ==
        "stored_rows.store: the narrow side has 41 columns, the wide one has 40");
  narrow = f.narrow();
  narrow.scales = {};
  CHECK(support::raised([&] { op::stored_rows<fp8_tilewise>::load(ctx, {.x = narrow, .y = f.y}); }) ==
        "stored_rows.load: scales has 0 columns, the format has 1");
  narrow = f.narrow();
  narrow.config.format = stored_format::e5m6;
  CHECK(support::raised([&] { op::stored_rows<fp8_tilewise>::store(ctx, {.x = f.x, .y = narrow}); }) ==
        "stored_rows.store: bytes has 40 columns, the format has 60");
}
