// SPDX-License-Identifier: MIT
#include <dsv3/cpu/memory/copy.hpp>
#include <dsv3/cpu/memory/fill.hpp>
#include <dsv3/number/bf16.hpp>

#include <support/guarded.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

struct shape_case {
  index_t rows, columns;
};
// Empty, single, many short rows, one row long enough for every thread, and rows of whole vectors.
constexpr shape_case shapes[] = {{0, 5}, {4, 0}, {1, 1}, {3, 7}, {2000, 33}, {1, 100003}, {70, 2056}};

/// A bundle of two tensors, in any element type.
struct pair_config {
  index_t n;
};
template <class T>
struct pair_bundle {
  pair_config config = {};
  view<T, 2> matrix;
  view<T, 1> vector;

  template <class Visit, class... Self>
  static void each_field(const pair_config& c, Visit&& visit, Self&... self) {
    visit("matrix", shape{c.n, 3}, self.matrix...);
    visit("vector", shape{c.n}, self.vector...);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("copy keeps every bit", T, double, float, bf16) {
  for (const shape_case s : shapes)
    for (const index_t gap : {0, 3, 8}) {
      guarded<T> x(gap, s.rows, s.columns), y(2 * gap, s.rows, s.columns);
      x.normal(1);
      support::run(2, [&](auto& ctx) { op::copy<T, T>::forward(ctx, {.x = x, .y = y}); });
      CHECK(y.values() == x.values());
      CHECK(x.intact());
      CHECK(y.intact());
    }
}

TEST_CASE("copy of a slice of columns leaves the others alone") {
  guarded<float> x(0, 5, 3016);
  guarded<bf16> y(0, 5, 4000);
  x.normal(1), y.fill([](index_t) { return -1.0; });
  support::run(2, [&](auto& ctx) {
    op::copy<float, bf16>::forward(ctx, {.x = x.get().columns(8, 3011), .y = y.get().columns(16, 3019)});
  });
  bool as_defined = true;
  for (index_t i = 0; i < 5; ++i)
    for (index_t c = 0; c < 4000; ++c) {
      const bool copied = c >= 16 && c < 3019;
      as_defined = as_defined && y.get()(i, c) == (copied ? bf16(x.get()(i, c - 8)) : bf16(-1.0f));
    }
  CHECK(as_defined);
}

TEST_CASE("copy rounds to nearest even and keeps what is not finite") {
  const std::vector<double> cases = {
      1,    1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1p-8 + 0x1p-20, -(1 + 0x1p-8), 0x1p-133, 3.4e38,
      -0.0, INFINITY,   -INFINITY};
  const std::vector<double> rounded = {1,        1,        1 + 0x1p-6, 1 + 0x1p-7, -1,
                                       0x1p-133, INFINITY, -0.0,       INFINITY,   -INFINITY};
  guarded<float> x(0, 2, 5);
  guarded<bf16> y(1, 2, 5);
  x.assign(cases);
  support::run(2, [&](auto& ctx) { op::copy<float, bf16>::forward(ctx, {.x = x, .y = y}); });
  CHECK(y.values() == rounded);
  CHECK(std::signbit(y.values()[7]));
  guarded<double> wide(0, 2, 5);
  support::run(1, [&](auto& ctx) { op::copy<bf16, double>::forward(ctx, {.x = y, .y = wide}); });
  CHECK(wide.values() == rounded);

  x.fill([](index_t i) { return i % 2 ? NAN : 1; });
  support::run(1, [&](auto& ctx) { op::copy<float, bf16>::forward(ctx, {.x = x, .y = y}); });
  for (index_t i = 0; i < 10; ++i) CHECK(std::isnan(y.values()[static_cast<std::size_t>(i)]) == (i % 2 == 1));
}

TEST_CASE("bundles are zeroed and copied field by field") {
  support::reachable_memory memory;
  const pair_config config{5000};
  owned<pair_bundle<float>> from(memory, config);
  owned<pair_bundle<bf16>> to(memory, config);
  support::run(2, [&](auto& ctx) {
    op::fill<float>::constant(ctx, {.y = from.matrix.flat(), .value = 4});
    op::fill<float>::constant(ctx, {.y = from.vector, .value = 5});
    copy(ctx, from, to);
  });
  double matrix = 0, vector = 0;
  for (index_t i = 0; i < config.n; ++i) matrix += to.matrix(i, 2), vector += to.vector(i);
  CHECK(matrix == 4 * 5000);
  CHECK(vector == 5 * 5000);
  support::run(2, [&](auto& ctx) { zero(ctx, to); });
  for (index_t i = 0; i < config.n; ++i) matrix -= 4 - to.matrix(i, 0), vector += to.vector(i);
  CHECK(matrix == 0);
  CHECK(vector == 5 * 5000);
}

TEST_CASE("copy says what does not fit") {
  guarded<float> x(0, 4, 8), other(0, 3, 9);
  const view<float, 2> null(nullptr, 4, 8);
  auto ctx = support::context(1);
  const auto said = [&](view<const float, 2> from, view<float, 2> to) {
    return support::raised([&] { op::copy<float, float>::forward(ctx, {.x = from, .y = to}); });
  };
  CHECK(said(x, other) == "copy: y has 3 rows, x has 4");
  CHECK(said(x, x.get().columns(0, 7)) == "copy: y has 7 columns, x has 8");
  CHECK(said(null, x) == "copy: x has 32 elements and a null pointer");
  CHECK(said(x, null) == "copy: y has 32 elements and a null pointer");
}
