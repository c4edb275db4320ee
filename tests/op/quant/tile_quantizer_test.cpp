// SPDX-License-Identifier: MIT
// Tiles bit for bit as their formula gives them, whatever their shape, layout and neighbours.
#include <dsv3/cpu/quant/tile_quantizer.hpp>

#include <oracle/tile_quantizer.hpp>
#include <support/guarded.hpp>
#include <support/row_tiles.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

struct shape_case {
  index_t rows, columns;
};
constexpr shape_case shapes[] = {{0, 5},     {5, 0},     {1, 1},     {1, 128},  {2, 129},  {127, 3},
                                 {128, 128}, {130, 260}, {257, 300}, {3, 4225}, {200, 392}};
constexpr scale_kind kinds[] = {scale_kind::real, scale_kind::power_of_two, scale_kind::power_of_two_down};
constexpr scale_group sharings[] = {scale_group::tile, scale_group::block, scale_group::tensor};

oracle::narrow_float format_of(fp8_e4m3) { return oracle::e4m3; }
oracle::narrow_float format_of(fp8_e5m2) { return oracle::e5m2; }

template <class From_, class Element_, class Tile_>
struct kind_of_tiles {
  using From = From_;
  using Element = Element_;
  using Tile = Tile_;
  using op_type = op::tile_quantizer<From, Element, Tile>;
  using tiles = support::guarded_tiles<Element, Tile>;
};

#define DSV3_TILES                                                                            \
  kind_of_tiles<float, fp8_e4m3, row_tile>, kind_of_tiles<bf16, fp8_e4m3, row_tile>,          \
      kind_of_tiles<double, fp8_e5m2, row_tile>, kind_of_tiles<bf16, fp8_e5m2, column_tile>,  \
      kind_of_tiles<float, fp8_e4m3, column_tile>, kind_of_tiles<bf16, fp8_e4m3, block_tile>, \
      kind_of_tiles<float, fp8_e5m2, block_tile>, kind_of_tiles<double, fp8_e4m3, block_tile>

/// Rows that start anywhere, but on whole vectors where their length allows it.
index_t gap_of(index_t columns) { return columns % 8 == 0 ? 8 : 5; }

/// Numbers whose magnitude differs from row to row and column to column; some rows and columns are zero.
template <class From>
void fill(guarded<From>& x, std::uint64_t stream = 1) {
  const random_stream random(20260101, stream);
  const index_t columns = std::max<index_t>(x.get().extent(1), 1);
  x.fill([&](index_t i) {
    const index_t row = i / columns, column = i % columns;
    if (row % 131 == 7 || column % 67 == 5) return column % 2 == 0 ? 0.0 : -0.0;
    const double size = std::ldexp(1.0, static_cast<int>(row * 7 % 23 + column * 5 % 19) - 24);
    return static_cast<double>(static_cast<float>(size * random.normal(static_cast<std::uint64_t>(i))));
  });
}

template <class Kind>
oracle::quantizer oracle_of(scale_kind kind, scale_group group, std::vector<oracle::group> groups) {
  return {.format = format_of(typename Kind::Element()),
          .largest = number_traits<typename Kind::Element>::max,
          .tile_rows = Kind::Tile::rows,
          .tile_columns = Kind::Tile::columns,
          .kind = static_cast<oracle::scales>(kind),
          .share = static_cast<oracle::sharing>(group),
          .groups = std::move(groups)};
}

/// How many codes and scales differ from the oracle's, and how many of padding were written.
template <class Kind>
int differences(typename Kind::tiles& y, const std::vector<oracle::quantizer::element>& expected) {
  const auto found = y.get();
  int wrong = 0;
  for (index_t r = 0; r < found.extent(0); ++r)
    for (index_t c = 0; c < found.extent(1); ++c) {
      const auto& e = expected[static_cast<std::size_t>(r * found.extent(1) + c)];
      const float scale = found.scale_of(r, c);
      if (e.live)
        wrong += found.values(r, c).bits != e.code || scale != e.scale;
      else
        wrong +=
            found.values(r, c).bits != support::poison<typename Kind::Element>().bits || !std::isnan(scale);
    }
  return wrong;
}

/// Three groups, the second empty, each followed by padding that is NaN.
struct uneven_groups {
  guarded<std::int32_t, 1> offsets{0, 4}, counts{0, 3};
  std::vector<oracle::group> expected;

  template <class From>
  uneven_groups(guarded<From>& x) {
    const index_t rows = x.get().extent(0), half = rows / 2;
    const index_t first[] = {0, half, half, rows}, live[] = {half - half / 4, 0, rows - half - rows / 9};
    offsets.fill([&](index_t g) { return first[g]; });
    counts.fill([&](index_t g) { return live[g]; });
    std::vector<bool> is_live(static_cast<std::size_t>(rows), false);
    for (int g = 0; g < 3; ++g) {
      expected.push_back({first[g], live[g]});
      for (index_t r = 0; r < live[g]; ++r) is_live[static_cast<std::size_t>(first[g] + r)] = true;
    }
    for (index_t r = 0; r < rows; ++r)
      if (!is_live[static_cast<std::size_t>(r)])
        for (index_t c = 0; c < x.get().extent(1); ++c) x.get()(r, c) = support::poison<From>();
  }
  operator row_groups() { return {offsets, counts}; }
};

template <class Kind>
void quantize(int threads, guarded<typename Kind::From>& x, typename Kind::tiles& y,
              scale_kind kind = scale_kind::real, scale_group group = scale_group::tile,
              const row_groups& groups = {}) {
  support::run(threads, [&](auto& ctx) {
    Kind::op_type::forward(ctx, {.x = x, .y = y.get(), .scales = kind, .group = group, .groups = groups});
  });
}

template <class Kind, class To>
void dequantize(typename Kind::tiles& x, guarded<To>& y, const row_groups& groups = {}) {
  support::run(2, [&](auto& ctx) {
    op::tile_quantizer<To, typename Kind::Element, typename Kind::Tile>::dequantize(
        ctx, {.x = x.get(), .y = y, .groups = groups});
  });
}

// Weights [out, in] in blocks of 128x128, as checkpoints store them.
void quantize_weights(const float* w, fp8_e4m3* codes, float* scales, int out, int in) {
  using quantizer = op::tile_quantizer<float, fp8_e4m3, block_tile>;
  const index_t blocks[] = {ceil_div(out, 128), ceil_div(in, 128)}, strides[] = {blocks[1], 1};
  cpu_context<> ctx{.threads = 2};
  quantizer::forward(ctx, {.x = view{w, out, in}, .y = {view{codes, out, in}, {scales, blocks, strides}}});
}

}  // namespace

TEST_CASE_TEMPLATE("tile_quantizer gives the oracle's bits", Kind, DSV3_TILES) {
  for (const shape_case shape : shapes)
    for (const scale_kind kind : kinds)
      for (const scale_group group : sharings)
        for (const bool token_minor : {false, true}) {
          if (shape.rows * shape.columns > 10000 && token_minor != (kind == scale_kind::real)) continue;
          CAPTURE(shape.rows);
          CAPTURE(shape.columns);
          CAPTURE(static_cast<int>(kind));
          CAPTURE(static_cast<int>(group));
          guarded<typename Kind::From> x(gap_of(shape.columns), shape.rows, shape.columns);
          fill(x);
          typename Kind::tiles y(shape.rows, shape.columns, token_minor);
          quantize<Kind>(2, x, y, kind, group);
          const auto expected = oracle_of<Kind>(kind, group, {{0, shape.rows}})(x.values(), shape.columns);
          CHECK(differences<Kind>(y, expected) == 0);
          CHECK(y.intact());
        }
}

TEST_CASE_TEMPLATE("tile_quantizer neither reads nor writes padding", Kind,
                   kind_of_tiles<float, fp8_e4m3, row_tile>, kind_of_tiles<bf16, fp8_e5m2, row_tile>) {
  for (const index_t rows : {1, 9, 128, 301, 700})
    for (const scale_group group : sharings) {
      constexpr index_t columns = 200;
      CAPTURE(rows);
      CAPTURE(static_cast<int>(group));
      guarded<typename Kind::From> x(8, rows, columns), back(2, rows, columns);
      fill(x);
      uneven_groups groups(x);
      typename Kind::tiles y(rows, columns, true);
      quantize<Kind>(2, x, y, scale_kind::real, group, groups);
      const auto expected = oracle_of<Kind>(scale_kind::real, group, groups.expected)(x.values(), columns);
      CHECK(differences<Kind>(y, expected) == 0);
      CHECK(y.intact());

      dequantize<Kind>(y, back, groups);
      int wrong = 0;
      for (index_t r = 0; r < rows; ++r)
        for (index_t c = 0; c < columns; ++c)
          wrong += std::isnan(static_cast<float>(back.get()(r, c))) ==
                   expected[static_cast<std::size_t>(r * columns + c)].live;
      CHECK(wrong == 0);
      CHECK(back.intact());
    }
}

TEST_CASE_TEMPLATE("dequantize multiplies codes by scales", Kind, DSV3_TILES) {
  for (const shape_case shape : shapes) {
    const index_t gap = gap_of(shape.columns);
    guarded<typename Kind::From> x(gap, shape.rows, shape.columns), back(gap, shape.rows, shape.columns);
    fill(x);
    typename Kind::tiles y(shape.rows, shape.columns, false);
    quantize<Kind>(1, x, y);
    dequantize<Kind>(y, back);
    const auto codes = y.get();
    int wrong = 0, far = 0;
    for (index_t r = 0; r < shape.rows; ++r)
      for (index_t c = 0; c < shape.columns; ++c) {
        const std::uint32_t code = codes.values(r, c).bits;
        const auto format = format_of(typename Kind::Element());
        const double scale = codes.scale_of(r, c);
        const double value = (code >= 128 ? -1 : 1) * format.value(code & 127u) * scale;
        const auto found = back.get()(r, c);
        wrong +=
            static_cast<double>(found) != static_cast<double>(typename Kind::From(static_cast<float>(value)));
        // Half a step of the format, of its smallest numbers, and what rounding quotient and product may add.
        const double from = static_cast<double>(x.get()(r, c)),
                     mantissa = std::ldexp(1, -format.mantissa_bits - 1);
        far += std::fabs(value - from) >
               1.001 * std::fmax(std::fabs(from) * mantissa, format.value(1) / 2 * scale);
      }
    CHECK(wrong == 0);
    CHECK(far == 0);
    CHECK(back.intact());
  }
}

TEST_CASE_TEMPLATE("tile_quantizer gives the same bits on any number of threads", Kind, DSV3_TILES) {
  for (const scale_group group : sharings) {
    guarded<typename Kind::From> x(1, 140, 4300);
    fill(x);
    typename Kind::tiles one(140, 4300, false);
    quantize<Kind>(1, x, one, scale_kind::real, group);
    for (const int threads : {2, 3, 7}) {
      typename Kind::tiles other(140, 4300, false);
      quantize<Kind>(threads, x, other, scale_kind::real, group);
      CHECK(other.same_bits(one));
    }
  }
}

TEST_CASE_TEMPLATE("tile_quantizer keeps bad numbers visible and in their tile", Kind, DSV3_TILES) {
  constexpr index_t rows = 256, columns = 256;
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    guarded<typename Kind::From> x(0, rows, columns), back(0, rows, columns);
    fill(x);
    typename Kind::tiles clean(rows, columns, false), hurt(rows, columns, false);
    quantize<Kind>(2, x, clean);
    // Another element has the tile's largest magnitude, so that a NaN alone changes no scale.
    const index_t at = 130;
    x.get()(at, at) = typename Kind::From(bad);
    quantize<Kind>(2, x, hurt);
    dequantize<Kind>(hurt, back);
    const auto expected =
        oracle_of<Kind>(scale_kind::real, scale_group::tile, {{0, rows}})(x.values(), columns);
    CHECK(differences<Kind>(hurt, expected) == 0);
    CHECK(hurt.get().values(at, at).bits == 0x7F);
    CHECK(std::isnan(static_cast<float>(back.get()(at, at))));
    int spread = 0;
    for (index_t r = 0; r < rows; ++r)
      for (index_t c = 0; c < columns; ++c) {
        const bool same_tile = r / Kind::Tile::rows == at / Kind::Tile::rows &&
                               c / Kind::Tile::columns == at / Kind::Tile::columns;
        spread += !same_tile && (hurt.get().values(r, c).bits != clean.get().values(r, c).bits ||
                                 hurt.get().scale_of(r, c) != clean.get().scale_of(r, c));
      }
    CHECK(spread == 0);
  }
}

TEST_CASE_TEMPLATE("quantising what was dequantised gives the same again", Kind, DSV3_TILES) {
  constexpr index_t rows = 384, columns = 640;
  for (const scale_kind kind : kinds)
    for (std::uint64_t stream = 1; stream < 4; ++stream) {
      CAPTURE(static_cast<int>(kind));
      guarded<typename Kind::From> x(0, rows, columns), once(0, rows, columns), twice(0, rows, columns);
      fill(x, stream);
      typename Kind::tiles first(rows, columns, false), second(rows, columns, false),
          third(rows, columns, false);
      quantize<Kind>(2, x, first, kind);
      dequantize<Kind>(first, once);
      quantize<Kind>(2, once, second, kind);
      dequantize<Kind>(second, twice);
      quantize<Kind>(2, twice, third, kind);
      // Codes and scales, but for scales rounded up to powers of two: where the largest code has rounded down
      // to half of the largest value, the scale halves and the codes double. The values are the same.
      if (kind != scale_kind::power_of_two) CHECK(second.same_bits(first));
      CHECK(once.values() == twice.values());
      CHECK(third.same_bits(second));
    }
}

TEST_CASE("a scale rounded up to a power of two may halve the second time") {
  using kind = kind_of_tiles<float, fp8_e4m3, row_tile>;
  guarded<float> x(0, 1, 2), back(0, 1, 2);
  x.assign({230, 1});
  kind::tiles first(1, 2, false), second(1, 2, false);
  quantize<kind>(1, x, first, scale_kind::power_of_two);
  dequantize<kind>(first, back);
  quantize<kind>(1, back, second, scale_kind::power_of_two);
  CHECK(back.values() == std::vector<double>{224, 1});
  CHECK(first.get().scales(0, 0) == 1.0f);
  CHECK(second.get().scales(0, 0) == 0.5f);
  CHECK(second.get().values(0, 1).bits == first.get().values(0, 1).bits + 8);  // one power of two more
}

TEST_CASE_TEMPLATE("tile_quantizer has no bias", Kind, DSV3_TILES) {
  // Every tile has the same largest number, 448 times a power of two or a number near it, and the others are
  // uniform in one power of two below, so that every place between two codes is as likely.
  constexpr index_t rows = 512, columns = 512;
  const auto format = format_of(typename Kind::Element());
  for (const scale_kind kind : {scale_kind::real, scale_kind::power_of_two}) {
    guarded<typename Kind::From> x(0, rows, columns);
    const random_stream random(20260101, 9);
    const double top = number_traits<typename Kind::Element>::max;
    x.fill([&](index_t i) {
      const index_t r = i / columns, c = i % columns;
      if (r % 128 == c % 128) return top;  // in every tile of every shape
      return top / 3.5 * (1 + random.uniform(static_cast<std::uint64_t>(i)));
    });
    typename Kind::tiles y(rows, columns, false);
    quantize<Kind>(2, x, y, kind);
    double sum = 0, count = 0;
    for (index_t r = 0; r < rows; ++r)
      for (index_t c = 0; c < columns; ++c) {
        if (r % 128 == c % 128) continue;
        const double step = std::ldexp(top / 3.5, -format.mantissa_bits);
        sum += (static_cast<double>(static_cast<float>(y.get().values(r, c))) *
                    static_cast<double>(y.get().scale_of(r, c)) -
                static_cast<double>(x.get()(r, c))) /
               step;
        ++count;
      }
    // Of the mean of independent errors of a twelfth of a step's square; bf16's own grid is 16 times as fine.
    CHECK(std::fabs(sum / count) < 5 * std::sqrt(1.0 / 12 / count));
  }
}

TEST_CASE("weights of checkpoints have scales of the published shapes") {
  const struct {
    index_t out, in, rows, columns;
  } cases[] = {{1536, 7168, 12, 56},   {24576, 1536, 192, 12}, {576, 7168, 5, 56},
               {32768, 512, 256, 4},   {7168, 16384, 56, 128}, {18432, 7168, 144, 56},
               {7168, 18432, 56, 144}, {2048, 7168, 16, 56},   {7168, 2048, 56, 16}};
  for (const auto& c : cases)
    CHECK(scaled_view<fp8_e4m3, block_tile>::scale_shape(shape{c.out, c.in}) == shape{c.rows, c.columns});
}

TEST_CASE("tile_quantizer on one's own pointers, as the manual shows it") {
  using kind = kind_of_tiles<float, fp8_e4m3, block_tile>;
  guarded<float> w(0, 200, 300);
  fill(w);
  kind::tiles y(200, 300, false);
  quantize<kind>(1, w, y);
  guarded<fp8_e4m3> codes(0, 200, 300);
  guarded<float> scales(0, 2, 3);
  quantize_weights(w.get().data(), codes.get().data(), scales.get().data(), 200, 300);
  int wrong = 0;
  for (index_t r = 0; r < 200; ++r)
    for (index_t c = 0; c < 300; ++c)
      wrong += codes.get()(r, c).bits != y.get().values(r, c).bits ||
               scales.get()(r / 128, c / 128) != y.get().scale_of(r, c);
  CHECK(wrong == 0);
}

TEST_CASE("tile_quantizer says what does not fit") {
  using kind = kind_of_tiles<float, fp8_e4m3, block_tile>;
  using rows = kind_of_tiles<float, fp8_e4m3, row_tile>;
  guarded<float> x(0, 200, 300);
  guarded<std::int32_t, 1> offsets(0, 2), counts(0, 1);
  kind::tiles y(200, 300, false), narrow(200, 299, false), low(199, 300, false), more(200, 400, false);
  const auto forward = [&](scaled_view<fp8_e4m3, block_tile> to) {
    return kind::op_type::forward_args{.x = x, .y = to}.check().message();
  };
  CHECK(forward(y) == "");
  CHECK(forward(narrow) == "tile_quantizer.forward: y has 299 columns, x has 300");
  CHECK(forward(low) == "tile_quantizer.forward: y has 199 rows, x has 200");
  CHECK(forward({y.get().values, more.get().scales}) ==
        "tile_quantizer.forward: scales has 4 columns, the tiles has 3");
  CHECK(forward({view<fp8_e4m3, 2>(nullptr, 200, 300), y.get().scales}) ==
        "tile_quantizer.forward: y has 60000 elements and a null pointer");
  kind::op_type::forward_args grouped{.x = x, .y = y.get(), .groups = {offsets, counts}};
  CHECK(grouped.check().message() == "tile_quantizer.forward: groups of rows need tiles of one row");
  CHECK(kind::op_type::dequantize_args{.x = narrow.get(), .y = x}.check().message() ==
        "tile_quantizer.dequantize: x has 299 columns, y has 300");
  rows::tiles by_rows(200, 300, false);
  CHECK(rows::op_type::forward_args{.x = x, .y = by_rows.get(), .groups = {offsets, counts}}
            .check()
            .message() == "");
}
