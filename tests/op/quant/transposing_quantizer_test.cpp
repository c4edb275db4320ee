// SPDX-License-Identifier: MIT
// Transposed tiles bit for bit as their formula gives them, whoever the neighbours are.
#include <dsv3/cpu/quant/transposing_quantizer.hpp>

#include <oracle/tile_quantizer.hpp>
#include <support/guarded.hpp>
#include <support/row_tiles.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

constexpr scale_kind kinds[] = {scale_kind::real, scale_kind::power_of_two, scale_kind::power_of_two_down};
constexpr scale_group sharings[] = {scale_group::tile, scale_group::block, scale_group::tensor};

oracle::narrow_float format_of(fp8_e4m3) { return oracle::e4m3; }
oracle::narrow_float format_of(fp8_e5m2) { return oracle::e5m2; }

struct shape_case {
  index_t tokens, channels;
  std::vector<oracle::group> groups;  // none: all tokens in one
};
const std::vector<shape_case>& shapes() {
  static const std::vector<shape_case> cases = {
      {0, 5, {}},
      {5, 0, {}},
      {1, 1, {}},
      {128, 128, {}},
      {130, 129, {}},
      {300, 67, {}},
      {64, 260, {}},
      {10, 40, {{0, 3}, {4, 0}, {4, 6}}},
      {400, 150, {{0, 200}, {200, 0}, {201, 1}, {256, 130}}},  // the second is empty; padding after the last
      {700, 30, {{3, 127}, {131, 128}, {300, 129}, {512, 188}}},
      {260, 20, {{0, 0}, {0, 0}, {0, 260}}},
      {512, 264, {{0, 100}, {128, 128}, {256, 0}, {256, 250}}},
      {7, 9, {{0, 0}}},
  };
  return cases;
}

/// One call's tensors; padding tokens are poison in x and y.
template <class From, class Element>
struct fixture {
  using op_type = op::transposing_quantizer<From, Element>;
  shape_case shape;
  guarded<std::int32_t, 1> offsets, counts;
  std::vector<oracle::group> live;
  guarded<From> x;
  support::row_tiles<Element> y, t;

  explicit fixture(const shape_case& s, bool token_minor = false)
      : shape(s),
        offsets(0, s.groups.size() + 1),
        counts(0, s.groups.size()),
        live(s.groups.empty() ? std::vector<oracle::group>{{0, s.tokens}} : s.groups),
        x(s.channels % 8 == 0 ? 8 : 3, s.tokens, s.channels),
        y(s.tokens, s.channels, token_minor),
        t(s.channels, s.tokens, token_minor, groups().tiles(s.tokens)) {
    const auto group = [&](index_t g) { return s.groups[static_cast<std::size_t>(g)]; };
    const auto size = static_cast<index_t>(s.groups.size());
    offsets.fill([&](index_t g) { return g < size ? group(g).first : s.tokens; });
    counts.fill([&](index_t g) { return group(g).count; });
    const random_stream random(20260101, 5);
    for (const auto& [first, count] : live)
      for (index_t r = first; r < first + count; ++r)
        for (index_t c = 0; c < s.channels; ++c) {
          const double normal = random.normal(static_cast<std::uint64_t>(r * s.channels + c));
          const double size_here = std::ldexp(1.0, static_cast<int>(r * 7 % 23 + c * 5 % 19) - 24);
          x.get()(r, c) = From(static_cast<float>(c % 31 == 4 ? -0.0 : size_here * normal));
        }
  }
  row_groups groups() { return shape.groups.empty() ? row_groups{} : row_groups{offsets, counts}; }

  void forward(int threads, scale_kind kind, scale_group group) {
    support::run(threads, [&](auto& ctx) {
      op_type::forward(ctx, {.x = x, .t = t.get(), .scales = kind, .group = group, .groups = groups()});
    });
  }
  void both(int threads, scale_kind kind, scale_group group) {
    support::run(threads, [&](auto& ctx) {
      op_type::both(ctx,
                    {.x = x, .y = y.get(), .t = t.get(), .scales = kind, .group = group, .groups = groups()});
    });
  }
  void retile(int threads, scale_kind kind, scale_group group) {
    support::run(threads, [&](auto& ctx) {
      op_type::retile(ctx, {.y = y.get(), .t = t.get(), .scales = kind, .group = group, .groups = groups()});
    });
  }

  using elements = std::vector<oracle::quantizer::element>;
  elements expected(const std::vector<double>& from, long tile_rows, long tile_columns, scale_kind kind,
                    scale_group group) {
    const oracle::quantizer quantize{.format = format_of(Element()),
                                     .largest = number_traits<Element>::max,
                                     .tile_rows = tile_rows,
                                     .tile_columns = tile_columns,
                                     .kind = static_cast<oracle::scales>(kind),
                                     .share = static_cast<oracle::sharing>(group),
                                     .groups = live};
    return quantize(from, shape.channels);
  }

  /// Codes and scales of t that differ from the oracle's, or were written and must not be.
  int wrong_t(const elements& want) {
    const auto found = t.get();
    guarded<float> scales(0, found.scales.extent(0), found.scales.extent(1));  // NaN where there is no tile
    int wrong = 0;
    std::vector<bool> is_live(static_cast<std::size_t>(shape.tokens), false);
    for (std::size_t g = 0; g < live.size(); ++g)
      for (index_t r = 0; r < live[g].count; ++r) {
        const index_t token = live[g].first + r,
                      tile = live[g].first / 128 + static_cast<index_t>(g) + r / 128;
        is_live[static_cast<std::size_t>(token)] = true;
        for (index_t c = 0; c < shape.channels; ++c) {
          const auto& e = want[static_cast<std::size_t>(token * shape.channels + c)];
          wrong += found.values(c, token).bits != e.code;
          scales.get()(c, tile) = e.scale;
        }
      }
    for (index_t c = 0; c < shape.channels; ++c) {
      for (index_t r = 0; r < shape.tokens; ++r)
        wrong += !is_live[static_cast<std::size_t>(r)] &&
                 found.values(c, r).bits != support::poison<Element>().bits;
      for (index_t i = 0; i < scales.get().extent(1); ++i) {
        const float mine = scales.get()(c, i), theirs = found.scales(c, i);
        wrong += std::isnan(mine) ? !std::isnan(theirs) : mine != theirs;
      }
    }
    return wrong;
  }
  int wrong_y(const elements& want) {
    const auto found = y.get();
    int wrong = 0;
    for (index_t r = 0; r < shape.tokens; ++r)
      for (index_t c = 0; c < shape.channels; ++c) {
        const auto& e = want[static_cast<std::size_t>(r * shape.channels + c)];
        wrong += e.live ? found.values(r, c).bits != e.code || found.scale_of(r, c) != e.scale
                        : found.values(r, c).bits != support::poison<Element>().bits;
      }
    return wrong;
  }
  /// Stored values, as floats.
  std::vector<double> stored() {
    const auto found = y.get();
    std::vector<double> result;
    for (index_t r = 0; r < shape.tokens; ++r)
      for (index_t c = 0; c < shape.channels; ++c)
        result.push_back(static_cast<double>(static_cast<float>(found.values(r, c)) * found.scale_of(r, c)));
    return result;
  }
  bool intact() { return x.intact() && y.intact() && t.intact(); }
};

template <class From_, class Element_>
struct types {
  using From = From_;
  using Element = Element_;
};
#define DSV3_TYPES \
  types<float, fp8_e4m3>, types<bf16, fp8_e4m3>, types<bf16, fp8_e5m2>, types<double, fp8_e4m3>

// The operands of a weight gradient from one reading of x: by tokens and by channels.
void quantize_both_ways(const float* x, fp8_e4m3* y, float* y_scales, fp8_e4m3* t, float* t_scales,
                        int tokens, int channels) {
  const index_t y_tiles[] = {tokens, ceil_div(channels, 128)}, y_strides[] = {y_tiles[1], 1};
  const index_t t_tiles[] = {channels, ceil_div(tokens, 128)}, t_strides[] = {t_tiles[1], 1};
  cpu_context<> ctx{.threads = 2};
  op::transposing_quantizer<float, fp8_e4m3>::both(
      ctx, {.x = view{x, tokens, channels},
            .y = {view{y, tokens, channels}, {y_scales, y_tiles, y_strides}},
            .t = {view{t, channels, tokens}, {t_scales, t_tiles, t_strides}}});
}

}  // namespace

TEST_CASE_TEMPLATE("transposing_quantizer gives the oracle's bits", Types, DSV3_TYPES) {
  for (const shape_case& shape : shapes())
    for (const scale_kind kind : kinds)
      for (const scale_group group : sharings) {
        CAPTURE(shape.tokens);
        CAPTURE(shape.channels);
        CAPTURE(static_cast<int>(kind));
        CAPTURE(static_cast<int>(group));
        fixture<typename Types::From, typename Types::Element> f(shape), g(shape, true);
        const auto by_channel = f.expected(f.x.values(), 128, 1, kind, group);
        f.forward(2, kind, group);
        CHECK(f.wrong_t(by_channel) == 0);

        g.both(2, kind, group);
        CHECK(g.wrong_t(by_channel) == 0);
        CHECK(g.wrong_y(g.expected(g.x.values(), 1, 128, kind, group)) == 0);

        const auto again = g.expected(g.stored(), 128, 1, kind, group);
        g.retile(2, kind, group);
        CHECK(g.wrong_t(again) == 0);
        CHECK(f.intact());
        CHECK(g.intact());
      }
}

TEST_CASE_TEMPLATE("transposing_quantizer gives the same bits on any number of threads", Types, DSV3_TYPES) {
  for (const scale_group group : sharings) {
    using fixture_type = fixture<typename Types::From, typename Types::Element>;
    const shape_case shape = {400, 300, {{0, 200}, {256, 130}}};
    fixture_type one(shape), tiles(shape);
    one.both(1, scale_kind::real, group);
    tiles.both(1, scale_kind::real, group), tiles.retile(1, scale_kind::power_of_two, group);
    for (const int threads : {2, 3, 7}) {
      fixture_type other(shape);
      other.both(threads, scale_kind::real, group);
      CHECK(other.y.same_bits(one.y));
      CHECK(other.t.same_bits(one.t));
      other.retile(threads, scale_kind::power_of_two, group);
      CHECK(other.t.same_bits(tiles.t));
    }
  }
}

TEST_CASE(
    "with powers of two new tiles hold the same values, but for what the larger scale makes subnormal") {
  fixture<bf16, fp8_e4m3> f({384, 256, {}});
  f.both(2, scale_kind::power_of_two, scale_group::tile);
  const std::vector<double> before = f.stored();
  f.retile(2, scale_kind::power_of_two, scale_group::tile);
  const auto t = f.t.get();
  int moved = 0, wrong = 0;
  for (index_t r = 0; r < 384; ++r)
    for (index_t c = 0; c < 256; ++c) {
      const double scale = t.scale_of(c, r),
                   after = static_cast<double>(static_cast<float>(t.values(c, r))) * scale;
      const double from = before[static_cast<std::size_t>(r * 256 + c)];
      moved += after != from;
      if (std::fabs(from) >= scale * 0x1p-6) wrong += after != from;
      wrong += std::fabs(after - from) > scale * 0x1p-10;  // half of the smallest number
    }
  CHECK(wrong == 0);
  CHECK(moved > 0);  // the magnitudes here differ by more than the format's range

  // With real scales even normal numbers are rounded a second time.
  fixture<bf16, fp8_e4m3> real({384, 256, {}});
  real.both(2, scale_kind::real, scale_group::tile);
  const std::vector<double> stored = real.stored();
  real.retile(2, scale_kind::real, scale_group::tile);
  const auto u = real.t.get();
  int twice = 0;
  for (index_t r = 0; r < 384; ++r)
    for (index_t c = 0; c < 256; ++c) {
      const double scale = u.scale_of(c, r), from = stored[static_cast<std::size_t>(r * 256 + c)];
      if (std::fabs(from) >= scale * 0x1p-6)
        twice += std::fabs(static_cast<double>(static_cast<float>(u.values(c, r))) * scale / from - 1) > 0.01;
    }
  CHECK(twice > 1000);
}

TEST_CASE("bad numbers stay visible") {
  for (const float bad : {NAN, INFINITY}) {
    fixture<float, fp8_e4m3> f({130, 140, {}});
    f.x.get()(129, 139) = bad;
    f.both(2, scale_kind::real, scale_group::tile);
    CHECK(f.t.get().values(139, 129).bits == 0x7F);
    CHECK(f.y.get().values(129, 139).bits == 0x7F);
    f.retile(2, scale_kind::real, scale_group::tile);
    CHECK(f.t.get().values(139, 129).bits == 0x7F);
  }
}

TEST_CASE("transposing_quantizer on one's own pointers, as the manual shows it") {
  fixture<float, fp8_e4m3> f({150, 200, {}});
  f.both(1, scale_kind::real, scale_group::tile);
  guarded<fp8_e4m3> y(0, 150, 200), t(0, 200, 150);
  guarded<float> x(0, 150, 200), y_scales(0, 150, 2), t_scales(0, 200, 2);
  x.assign(f.x.values());
  quantize_both_ways(x.get().data(), y.get().data(), y_scales.get().data(), t.get().data(),
                     t_scales.get().data(), 150, 200);
  int wrong = 0;
  for (index_t r = 0; r < 150; ++r)
    for (index_t c = 0; c < 200; ++c) {
      wrong += y.get()(r, c).bits != f.y.get().values(r, c).bits ||
               t.get()(c, r).bits != f.t.get().values(c, r).bits;
      wrong += y_scales.get()(r, c / 128) != f.y.get().scale_of(r, c) ||
               t_scales.get()(c, r / 128) != f.t.get().scale_of(c, r);
    }
  CHECK(wrong == 0);
}

TEST_CASE("transposing_quantizer says what does not fit") {
  using op_type = op::transposing_quantizer<float, fp8_e4m3>;
  fixture<float, fp8_e4m3> f({200, 300, {}}), other({129, 300, {}}), grouped({200, 300, {{0, 200}}});
  const auto forward = [&](scaled_view<fp8_e4m3, row_tile> t, row_groups groups = {}) {
    return op_type::forward_args{.x = f.x, .t = t, .groups = groups}.check().message();
  };
  CHECK(forward(f.t) == "");
  CHECK(forward(f.y) == "transposing_quantizer.forward: t has 200 rows, the tokens' channels has 300");
  CHECK(forward(other.t) == "transposing_quantizer.forward: t has 129 columns, the rows has 200");
  CHECK(forward(f.t, grouped.groups()) ==
        "transposing_quantizer.forward: t's scales has 2 columns, the tiles has 3");
  CHECK(forward(grouped.t, grouped.groups()) == "");
  CHECK(op_type::both_args{.x = f.x, .y = other.y.get(), .t = f.t.get()}.check().message() ==
        "transposing_quantizer.both: y has 129 rows, x has 200");
  CHECK(op_type::retile_args{.y = f.y.get(), .t = f.t.get()}.check().message() == "");
  CHECK(op_type::retile_args{.y = {f.y.get().values, f.t.get().scales}, .t = f.t.get()}.check().message() ==
        "transposing_quantizer.retile: y's scales has 300 rows, y has 200");
}
