// SPDX-License-Identifier: MIT
#include <dsv3/cpu/memory/gather_rows.hpp>
#include <dsv3/number/bf16.hpp>

#include <support/guarded.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

using namespace dsv3;
using support::guarded;

TEST_CASE_TEMPLATE("every row arrives whole", T, double, float, bf16) {
  for (const index_t columns : {1, 7, 3012, 40000})
    for (const std::vector<std::int32_t>& picked :
         {std::vector<std::int32_t>{}, {2}, {4, 0, 4, 3}, {0, 1, 2, 3, 4}})
      for (const int threads : {1, 2, 3}) {
        const index_t gap = threads == 1 ? 0 : threads;
        const auto count = static_cast<index_t>(picked.size());
        guarded<T> x(gap, index_t{5}, columns), y(2 * gap, count, columns);
        x.normal(1);
        const view<const T, 2> from = x;
        const view<T, 2> to = y;
        support::run(threads, [&](auto& ctx) {
          op::gather_rows<T>::forward(ctx, {.x = from, .rows = view{picked.data(), count}, .y = to});
        });
        bool same = true;
        for (index_t i = 0; i < count; ++i)
          for (index_t c = 0; c < columns; ++c)
            same = same && double(to(i, c)) == double(from(picked[static_cast<std::size_t>(i)], c));
        CHECK(same);
        CHECK(x.intact());
        CHECK(y.intact());
      }
}

TEST_CASE("rows that are not there") {
  std::vector<float> x(6), y(6);
  const auto refusal = [&](std::vector<std::int32_t> rows, index_t columns) {
    try {
      auto ctx = support::context(1);
      op::gather_rows<float>::forward(ctx, {.x = view{x.data(), 3, 2},
                                            .rows = view{rows.data(), 2},
                                            .y = view{y.data(), index_t{2}, columns}});
      synchronize(ctx);
    } catch (const error& problem) {
      return std::string(problem.what());
    }
    return std::string("accepted");
  };
  CHECK(refusal({0, 3}, 2) == "gather_rows: rows[1] is 3, expected a row below 3");
  CHECK(refusal({-1, 0}, 2) == "gather_rows: rows[0] is -1, expected a row below 3");
  CHECK(refusal({0, 1}, 3) == "gather_rows: y has 3 columns, x has 2");
  CHECK(refusal({0, 2}, 2) == "accepted");
}
