// SPDX-License-Identifier: MIT
// The sentences of failed demands, and the way from a status to an error.
#include <dsv3/base/requirements.hpp>
#include <dsv3/tensor/view.hpp>

#include <doctest/doctest.h>

#include <limits>

using dsv3::requirements;

TEST_CASE("a status is good or says why not") {
  CHECK(dsv3::status{}.good());
  CHECK(static_cast<bool>(dsv3::status{}));
  const dsv3::status bad{"op: x is too large"};
  CHECK_FALSE(bad.good());
  CHECK(bad.message() == "op: x is too large");
  CHECK_NOTHROW(dsv3::require(dsv3::status{}));
  CHECK_THROWS_WITH_AS(dsv3::require(bad), "op: x is too large", dsv3::error);
}

TEST_CASE("the first demand that fails becomes the sentence") {
  requirements need{"op.forward"};
  need.equal("y", "tokens", 4, "x", 4).equal("y", "tokens", 3, "x", 4).equal("gain", "columns", 1, "x", 2);
  need.that(false, "epsilon must be positive");
  CHECK(need.verdict().message() == "op.forward: y has 3 tokens, x has 4");
}

TEST_CASE("demands without numbers") {
  CHECK(requirements{"op"}.that(true, "never said").verdict().good());
  CHECK(requirements{"op"}.that(false, "epsilon must be positive").verdict().message() ==
        "op: epsilon must be positive");
}

TEST_CASE("demands about numbers") {
  const auto groups = [](dsv3::index_t count) {
    return requirements{"op"}
        .that(count == 4, "the groups must divide the experts", {{"experts", 16}, {"groups", count}})
        .that(false, "said second", {{"groups", count}})
        .verdict()
        .message();
  };
  CHECK(groups(3) == "op: the groups must divide the experts, found experts 16, groups 3");
  CHECK(groups(4) == "op: said second, found groups 4");
}

TEST_CASE("a view is present when it is empty or points somewhere") {
  float value = 0;
  CHECK(requirements{"op"}.present("x", dsv3::view<float, 2>{}).verdict().good());
  CHECK(requirements{"op"}.present("x", dsv3::view{&value, 1, 1}).verdict().good());
  CHECK(requirements{"op"}.present("x", dsv3::view{static_cast<float*>(nullptr), 0, 7}).verdict().good());
  CHECK(requirements{"op"}.present("x", dsv3::view{static_cast<float*>(nullptr), 2, 3}).verdict().message() ==
        "op: x has 6 elements and a null pointer");
}

TEST_CASE("arithmetic on extents") {
  static_assert(dsv3::ceil_div(0, 4) == 0 && dsv3::ceil_div(1, 4) == 1 && dsv3::ceil_div(8, 4) == 2);
  static_assert(dsv3::round_up(5, 4) == 8 && dsv3::round_up(8, 4) == 8);
  const dsv3::index_t counts[] = {0, 1, 7, 16, 1000003, (dsv3::index_t{1} << 40) + 1};
  for (const dsv3::index_t count : counts)
    for (const dsv3::index_t parts : {1, 2, 3, 8, 61}) {
      dsv3::index_t at = 0, smallest = std::numeric_limits<dsv3::index_t>::max(), largest = 0;
      for (dsv3::index_t part = 0; part < parts; ++part) {
        const auto range = dsv3::split_range(count, part, parts);
        CHECK(range.begin == at);
        at = range.end;
        smallest = std::min(smallest, range.count());
        largest = std::max(largest, range.count());
      }
      CHECK(at == count);
      CHECK(largest - smallest <= 1);
    }
}
