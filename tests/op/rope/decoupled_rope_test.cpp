// SPDX-License-Identifier: MIT
// Rotary table and rotation, in place on a column slice of queries: both layouts, both directions.
#include <doctest/doctest.h>

#include <dsv3/cpu/rope/decoupled_rope.hpp>
#include <dsv3/exec/measure.hpp>
#include <dsv3/number/traits.hpp>

#include <oracle/decoupled_rope.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/tolerances.hpp>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

using namespace dsv3;
using support::guarded;

namespace {

const rope_config yarn{.factor = 40, .original_length = 128, .mscale = 1, .mscale_all_dim = 0.707};

oracle::rotary same_as(const rope_config& c) {
  return {.theta = c.theta,
          .stretch = c.factor,
          .trained = c.original_length,
          .fast_turns = c.beta_fast,
          .slow_turns = c.beta_slow,
          .mscale = c.mscale,
          .mscale_all_dim = c.mscale_all_dim};
}

// A table of `positions` rows whose rows lie apart, filled by the operation.
template <class P>
struct filled_table {
  guarded<accumulator<P>> cosine, sine;
  index_t positions, qk_rope;

  filled_table(index_t rows, index_t width, const rope_config& rope, int threads = 1, index_t gap = 3)
      : cosine(gap, rows, width / 2), sine(2 * gap, rows, width / 2), positions(rows), qk_rope(width) {
    support::run(threads,
                 [&](auto& ctx) { op::decoupled_rope<P>::table(ctx, {.rope = rope, .table = get()}); });
  }
  rope_table<accumulator<P>> get() { return {{positions, qk_rope}, cosine, sine}; }
};

struct problem {
  index_t tokens, heads, qk_nope, qk_rope, positions;
};
const problem problems[] = {{7, 3, 5, 6, 40},    {1, 1, 0, 2, 1},    {65, 2, 64, 64, 300},
                            {0, 4, 8, 8, 16},    {300, 1, 0, 34, 9}, {3, 17, 1, 10, 5000},
                            {9, 150, 8, 32, 70}, {4, 1, 0, 576, 20}};

std::int32_t position_of(const problem& c, index_t token) {  // the last one included
  return static_cast<std::int32_t>(token == 0 ? c.positions - 1 : token * 37 % c.positions);
}

// x as the rotary columns of queries [tokens, heads, qk_nope + qk_rope]; what lies before them must not
// change.
template <class P, rope_layout Layout>
struct rotation_case {
  problem size;
  guarded<activation<P>, 3> q;
  guarded<std::int32_t, 1> positions;

  explicit rotation_case(const problem& c, index_t gap = 3)
      : size(c), q(gap, c.tokens, c.heads, c.qk_nope + c.qk_rope), positions(0, c.tokens) {
    q.normal(1);
    positions.fill([&](index_t t) { return position_of(c, t); });
  }
  view<activation<P>, 3> x() { return q.get().columns(size.qk_nope, size.qk_nope + size.qk_rope); }

  void apply(filled_table<P>& table, rotation direction, int threads = 1) {
    support::run(threads, [&](auto& ctx) {
      op::decoupled_rope<P, Layout>::apply(
          ctx, {.x = x(), .positions = positions, .table = table.get(), .direction = direction});
    });
  }

  std::vector<double> expected(const rope_config& rope, int direction) {
    std::vector<double> values = q.values();
    const auto width = size.qk_nope + size.qk_rope;
    for (index_t row = 0; row < size.tokens * size.heads; ++row) {
      const auto first = values.begin() + row * width + size.qk_nope;
      const std::vector<double> turned =
          same_as(rope).turn({first, first + size.qk_rope}, position_of(size, row / size.heads), direction,
                             Layout == rope_layout::half_split);
      std::copy(turned.begin(), turned.end(), first);
    }
    return values;
  }
};

// The rotated columns of values [rows, qk_nope + qk_rope], which is what tolerances are about.
std::vector<double> rotary_columns(const std::vector<double>& values, const problem& c) {
  std::vector<double> result;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (static_cast<index_t>(i) % (c.qk_nope + c.qk_rope) >= c.qk_nope) result.push_back(values[i]);
  return result;
}

template <class P, rope_layout Layout>
void agrees_with_oracle() {
  for (const problem& c : problems)
    for (const rope_config& rope : {rope_config{}, yarn})
      for (rotation direction : {rotation::forward, rotation::inverse}) {
        CAPTURE(c.tokens);
        CAPTURE(c.qk_rope);
        // Aligned for vectors, or for nothing.
        const index_t gap = (c.qk_nope + c.qk_rope) % 8 == 0 ? 0 : 3;
        filled_table<P> table(c.positions, c.qk_rope, rope, 1, gap);
        rotation_case<P, Layout> run(c, gap);
        const auto expected = run.expected(rope, direction == rotation::forward ? 1 : -1);
        run.apply(table, direction);
        const auto found = run.q.values();
        // Far positions: an angle of thousands of radians keeps 1e-13 of itself in double.
        CHECK(support::worst_row(rotary_columns(found, c), rotary_columns(expected, c), c.qk_rope) <=
              support::tolerance<P>::row);
        const auto width = static_cast<std::size_t>(c.qk_nope + c.qk_rope);
        for (std::size_t i = 0; i < found.size(); ++i)
          if (static_cast<index_t>(i % width) < c.qk_nope) CHECK(found[i] == expected[i]);
        CHECK(run.q.intact());
      }
}

}  // namespace

TEST_CASE_TEMPLATE("the table is cos and sin times the attention factor", P, fp64_reference, fp32,
                   bf16_mixed) {
  for (const rope_config& rope : {rope_config{}, yarn}) {
    filled_table<P> table(3000, 64, rope);
    const oracle::rotary expected = same_as(rope);
    const auto cosine = table.cosine.values(), sine = table.sine.values();
    const double allowed = 4 * number_traits<accumulator<P>>::epsilon + 1e-12;
    double worst = 0;
    for (int position = 0; position < 3000; ++position)
      for (int i = 0; i < 32; ++i) {
        const auto at = static_cast<std::size_t>(position * 32 + i);
        const double angle = position * expected.frequency(i, 64);
        worst = std::max({worst, std::fabs(cosine[at] - expected.amplitude() * std::cos(angle)),
                          std::fabs(sine[at] - expected.amplitude() * std::sin(angle))});
      }
    CHECK(worst <= allowed);
    CHECK(table.cosine.intact());
    CHECK(table.sine.intact());
    for (int threads : {2, 3}) {
      filled_table<P> again(3000, 64, rope, threads);
      CHECK(again.cosine.same_bits(table.cosine));
      CHECK(again.sine.same_bits(table.sine));
    }
  }
}

TEST_CASE_TEMPLATE("rotation agrees with the oracle", P, fp64_reference, fp32, bf16_mixed) {
  agrees_with_oracle<P, rope_layout::interleaved>();
  agrees_with_oracle<P, rope_layout::half_split>();
}

TEST_CASE("results are the same bits for any number of threads, and every time") {
  const problem c{300, 20, 3, 34, 400};
  filled_table<fp32> table(c.positions, c.qk_rope, yarn);
  rotation_case<fp32, rope_layout::interleaved> one(c);
  one.apply(table, rotation::forward);
  for (int threads : {1, 2, 3}) {
    rotation_case<fp32, rope_layout::interleaved> other(c);
    other.apply(table, rotation::forward, threads);
    CHECK(other.q.same_bits(one.q));
  }
}

TEST_CASE("inverse undoes forward, and is its transpose") {
  const problem c{11, 2, 4, 12, 100};
  filled_table<fp64_reference> table(c.positions, c.qk_rope, rope_config{});
  rotation_case<fp64_reference, rope_layout::half_split> run(c);
  const auto before = run.q.values();
  run.apply(table, rotation::forward);
  const auto rotated = run.q.values();
  CHECK(support::worst_row(rotated, before, 16) > 0.1);  // something happened
  run.apply(table, rotation::inverse);
  CHECK(support::worst_row(run.q.values(), before, 16) <= 1e-14);

  // <forward x, y> = <x, inverse y>, with YaRN's multiplier too: what makes inverse the gradient.
  filled_table<fp64_reference> stretched(c.positions, c.qk_rope, yarn);
  rotation_case<fp64_reference, rope_layout::interleaved> x(c), y(c);
  y.q.normal(2);
  double left = 0, right = 0;
  const auto x_before = rotary_columns(x.q.values(), c), y_before = rotary_columns(y.q.values(), c);
  x.apply(stretched, rotation::forward);
  y.apply(stretched, rotation::inverse);
  const auto x_after = rotary_columns(x.q.values(), c), y_after = rotary_columns(y.q.values(), c);
  for (std::size_t i = 0; i < x_before.size(); ++i)
    left += x_after[i] * y_before[i], right += x_before[i] * y_after[i];
  CHECK(std::fabs(left - right) <= 1e-12 * std::fabs(left));
}

TEST_CASE("interleaved gives the scores of half-split on permuted channels") {
  const problem c{9, 1, 0, 16, 50};
  filled_table<fp64_reference> table(c.positions, c.qk_rope, yarn);
  const auto scores = [&](auto& q, auto& k) {
    std::vector<double> result;
    const auto a = q.q.values(), b = k.q.values();
    for (int t = 0; t < 9; ++t)
      for (int j = 0; j < 9; ++j) {
        double sum = 0;
        for (int e = 0; e < 16; ++e) sum += a[std::size_t(t * 16 + e)] * b[std::size_t(j * 16 + e)];
        result.push_back(sum);
      }
    return result;
  };
  const auto permute = [&](const std::vector<double>& x) {
    std::vector<double> y(x.size());
    for (std::size_t row = 0; row < 9; ++row)
      for (std::size_t i = 0; i < 8; ++i)
        y[row * 16 + i] = x[row * 16 + 2 * i], y[row * 16 + i + 8] = x[row * 16 + 2 * i + 1];
    return y;
  };
  rotation_case<fp64_reference, rope_layout::interleaved> q(c), k(c);
  rotation_case<fp64_reference, rope_layout::half_split> q_halves(c), k_halves(c);
  k.q.normal(5);
  q_halves.q.assign(permute(q.q.values()));
  k_halves.q.assign(permute(k.q.values()));
  q.apply(table, rotation::forward), k.apply(table, rotation::forward);
  q_halves.apply(table, rotation::forward), k_halves.apply(table, rotation::forward);
  CHECK(support::worst_row(q_halves.q.values(), permute(q.q.values()), 16) == 0);
  CHECK(support::worst_row(scores(q_halves, k_halves), scores(q, k), 9) <= 1e-13);
}

TEST_CASE("scores depend on the distance of positions alone") {
  filled_table<fp64_reference> table(200, 8, rope_config{});
  const auto score = [&](std::int32_t query, std::int32_t key) {
    guarded<double, 3> x(0, 2, 1, 8);
    x.normal(3);
    guarded<std::int32_t, 1> positions(0, 2);
    positions.fill([&](index_t t) { return t == 0 ? query : key; });
    support::run(1, [&](auto& ctx) {
      op::decoupled_rope<fp64_reference>::apply(ctx, {.x = x, .positions = positions, .table = table.get()});
    });
    double sum = 0;
    for (index_t e = 0; e < 8; ++e) sum += x.get()(0, 0, e) * x.get()(1, 0, e);
    return sum;
  };
  CHECK(std::fabs(score(12, 3) - score(190, 181)) <= 1e-13);
  CHECK(std::fabs(score(12, 3) - score(12, 4)) > 1e-3);
}

TEST_CASE("a NaN stays in its pair") {
  const problem c{5, 2, 0, 8, 10};
  filled_table<fp32> table(c.positions, c.qk_rope, rope_config{});
  rotation_case<fp32, rope_layout::half_split> run(c);
  run.x()(3, 1, 2) = std::numeric_limits<float>::quiet_NaN();
  run.apply(table, rotation::forward);
  for (index_t t = 0; t < 5; ++t)
    for (index_t h = 0; h < 2; ++h)
      for (index_t e = 0; e < 8; ++e)
        CHECK(std::isnan(run.x()(t, h, e)) == (t == 3 && h == 1 && (e == 2 || e == 6)));
}

TEST_CASE("a position outside the table is refused and not rotated") {
  const problem c{6, 2, 0, 4, 10};
  filled_table<fp32> table(c.positions, c.qk_rope, rope_config{});
  for (std::int32_t bad : {10, -1}) {
    rotation_case<fp32, rope_layout::interleaved> run(c);
    run.positions.get()(4) = bad;
    [[maybe_unused]] const auto before = run.q.raw();
    [[maybe_unused]] const auto values = run.q.values();
    const std::string sentence =
        "decoupled_rope.apply: token 4 has position " + std::to_string(bad) + ", the table has 10 positions";
    CHECK_THROWS_WITH_AS(run.apply(table, rotation::forward, 2), sentence.c_str(), dsv3::error);
#if defined(DSV3_TEST_BACKEND)  // says so afterwards; the token itself is left alone
    for (std::size_t i = 4 * 2 * 4; i < 5 * 2 * 4; ++i) CHECK(run.q.values()[i] == values[i]);
#else
    CHECK(std::memcmp(before.data(), run.q.raw().data(), before.size() * sizeof(float)) == 0);
#endif
  }
}

TEST_CASE("check says what is wrong") {
  using op_type = op::decoupled_rope<fp32>;
  guarded<float, 3> x(0, 4, 2, 6);
  guarded<std::int32_t, 1> positions(0, 4);
  filled_table<fp32> table(8, 6, rope_config{}), narrow(8, 4, rope_config{});
  const op_type::apply_args good{.x = x, .positions = positions, .table = table.get()};
  CHECK(good.check());

  auto args = good;
  args.positions = positions.get().rows(0, 3);
  CHECK(args.check().message() == "decoupled_rope.apply: positions has 3 tokens, x has 4");
  args = good;
  args.table = narrow.get();
  CHECK(args.check().message() == "decoupled_rope.apply: x has 3 rotary pairs, the table has 2");
  args = good;
  args.table.sine = table.sine.get().rows(0, 7);
  CHECK(args.check().message() == "decoupled_rope.apply: sine has 7 positions, cosine has 8");
  args = good;
  args.x = args.x.columns(0, 5);
  args.table = narrow.get();
  CHECK(args.check().message() == "decoupled_rope.apply: x has an odd number of rotary channels");

  op_type::table_args filling{.rope = {}, .table = table.get()};
  CHECK(filling.check());
  filling.table.config.qk_rope = 7;
  CHECK(filling.check().message() == "decoupled_rope.table: qk_rope must be even");
  filling.table.config.qk_rope = 8;
  CHECK(filling.check().message() ==
        "decoupled_rope.table: cosine has 3 rotary pairs, the table's config has 4");
}

TEST_CASE("no scratch is needed") {
  const problem c{6, 2, 0, 4, 10};
  filled_table<fp32> table(c.positions, c.qk_rope, rope_config{});
  rotation_case<fp32, rope_layout::interleaved> run(c);
  const auto ctx = support::context(1);
  CHECK(measure(ctx, [&](auto& probe) {
          op::decoupled_rope<fp32>::apply(probe,
                                          {.x = run.x(), .positions = run.positions, .table = table.get()});
        }) == 0);
}
