// SPDX-License-Identifier: MIT
#include <dsv3/cpu/memory/add.hpp>

#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

struct shape_case {
  index_t rows, columns;
};
// Empty, single, many short rows, one row long enough for every thread, and rows of whole vectors.
constexpr shape_case shapes[] = {{0, 5}, {4, 0}, {1, 1}, {3, 7}, {2000, 33}, {1, 100003}, {70, 2056}};

}  // namespace

TEST_CASE_TEMPLATE("add agrees with the sums, in place too", P, fp64_reference, fp32, bf16_mixed) {
  using T = activation<P>;
  for (const shape_case s : shapes)
    for (const index_t gap : {0, 3, 8}) {
      guarded<T> a(gap, s.rows, s.columns), b(gap == 3 ? 4 : gap, s.rows, s.columns),
          y(2 * gap, s.rows, s.columns);
      a.normal(1), b.normal(2);
      std::vector<double> sum = a.values();
      const std::vector<double> other = b.values();
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += other[i];
      support::run(2, [&](auto& ctx) { op::add<P>::forward(ctx, {.a = a, .b = b, .y = y}); });
      CHECK(support::worst_row(y.values(), sum, s.columns, 1) <= support::tolerance<P>::row);

      guarded<T> over_a = a, over_b = b;  // in place, on other numbers of threads
      support::run(1, [&](auto& ctx) { op::add<P>::forward(ctx, {.a = over_a, .b = b, .y = over_a}); });
      support::run(3, [&](auto& ctx) { op::add<P>::forward(ctx, {.a = a, .b = over_b, .y = over_b}); });
      CHECK(over_a.values() == y.values());
      CHECK(over_b.values() == y.values());
      support::run(3, [&](auto& ctx) { op::add<P>::forward(ctx, {.a = a, .b = a, .y = a}); });
      CHECK(a.intact());
      CHECK(b.intact());
      CHECK(y.intact());
      CHECK(over_a.intact());
    }
}

TEST_CASE("add says what does not fit") {
  guarded<float> a(0, 4, 8), other(0, 3, 9);
  const view<float, 2> null(nullptr, 4, 8);
  auto ctx = support::context(1);
  const auto said = [&](view<const float, 2> left, view<const float, 2> right, view<float, 2> to) {
    return support::raised([&] { op::add<fp32>::forward(ctx, {.a = left, .b = right, .y = to}); });
  };
  CHECK(said(a, other, a) == "add: b has 3 tokens, a has 4");
  CHECK(said(a, a, other) == "add: y has 3 tokens, a has 4");
  CHECK(said(a, a.get().columns(0, 7), a) == "add: b has 7 columns, a has 8");
  CHECK(said(a, a, null) == "add: y has 32 elements and a null pointer");
}
