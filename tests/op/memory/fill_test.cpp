// SPDX-License-Identifier: MIT
#include <dsv3/cpu/memory/fill.hpp>
#include <dsv3/number/bf16.hpp>

#include <support/guarded.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

using namespace dsv3;
using support::guarded;

TEST_CASE_TEMPLATE("fill.constant", T, double, float, bf16, std::int32_t) {
  for (const index_t n : {0, 1, 77, 100003}) {
    guarded<T, 1> y(0, n);
    support::run(3, [&](auto& ctx) { op::fill<T>::constant(ctx, {.y = y, .value = -3}); });
    CHECK(y.values() == std::vector<double>(static_cast<std::size_t>(n), -3));
    CHECK(y.intact());
  }
}

TEST_CASE_TEMPLATE("fill.normal is the stream's numbers, whatever the threads", T, double, float, bf16) {
  const random_stream random(7, 9);
  constexpr index_t n = 60001;
  guarded<T, 1> y(0, n);
  support::run(1, [&](auto& ctx) {
    op::fill<T>::normal(ctx, {.y = y, .random = random, .mean = 2, .deviation = 0.5});
  });
  // Libraries for different processors differ in the last bit of a logarithm or cosine.
  double furthest = 0;
  for (index_t i = 0; i < n; ++i)
    furthest = std::max(
        furthest, std::fabs(static_cast<double>(y.get()(i)) -
                            static_cast<double>(T(2 + 0.5 * random.normal(static_cast<std::uint64_t>(i))))));
  CHECK(furthest <= 2e-15);
  CHECK(y.intact());

  double mean = 0, square = 0;
  for (const double value : y.values()) mean += value / n;
  for (const double value : y.values()) square += (value - mean) * (value - mean) / n;
  CHECK(mean == doctest::Approx(2).epsilon(0.01));
  CHECK(std::sqrt(square) == doctest::Approx(0.5).epsilon(0.02));

  for (const int threads : {2, 3}) {
    guarded<T, 1> other(0, n);
    support::run(threads, [&](auto& ctx) {
      op::fill<T>::normal(ctx, {.y = other, .random = random, .mean = 2, .deviation = 0.5});
    });
    CHECK(other.same_bits(y));
  }

  // A part gets what it has in the whole.
  constexpr index_t first = 777;
  guarded<T, 1> part(0, n - first);
  support::run(2, [&](auto& ctx) {
    op::fill<T>::normal(ctx, {.y = part, .random = random, .mean = 2, .deviation = 0.5, .first = first});
  });
  bool same = true;
  for (index_t i = 0; i < n - first; ++i) same = same && part.get()(i) == y.get()(first + i);
  CHECK(same);
}

TEST_CASE("fill says what does not fit") {
  cpu_context<> ctx;
  const view<float, 1> null(nullptr, 3);
  CHECK(support::raised([&] { op::fill<float>::constant(ctx, {.y = null}); }) ==
        "fill.constant: y has 3 elements and a null pointer");
  CHECK(support::raised([&] {
          op::fill<float>::normal(ctx, {.y = null, .random = {1, 2}});
        }) == "fill.normal: y has 3 elements and a null pointer");
  guarded<float, 1> y(0, 3);
  CHECK(support::raised([&] {
          op::fill<float>::normal(ctx, {.y = y, .random = {1, 2}, .first = -1});
        }) == "fill.normal: first must not be negative");
}
