// SPDX-License-Identifier: MIT
// Precisions: the named ones, and one derived from them.
#include <dsv3/number/precision.hpp>
#include <dsv3/tensor/layout_policy.hpp>

#include <doctest/doctest.h>

#include <string>
#include <type_traits>

namespace {

struct own_moments : dsv3::bf16_mixed {
  using moment = float;
};
struct nothing {};

}  // namespace

TEST_CASE("the named precisions fill every role") {
  CHECK(dsv3::precision<dsv3::fp64_reference>);
  CHECK(dsv3::precision<dsv3::fp32>);
  CHECK(dsv3::precision<dsv3::bf16_mixed>);
  CHECK_FALSE(dsv3::precision<nothing>);
  CHECK(std::string(dsv3::fp64_reference::name) == "fp64");
  CHECK(std::string(dsv3::fp32::name) == "fp32");
  CHECK(std::string(dsv3::bf16_mixed::name) == "bf16");
}

TEST_CASE("a derived precision replaces one role and keeps the others") {
  CHECK(dsv3::precision<own_moments>);
  CHECK(std::is_same_v<dsv3::moment<own_moments>, float>);
  CHECK(std::is_same_v<dsv3::activation<own_moments>, dsv3::bf16>);
  CHECK(std::is_same_v<dsv3::accumulator<own_moments>, float>);
}

TEST_CASE("layout policies") {
  CHECK(dsv3::layout_policy<dsv3::default_layout>);
  CHECK(dsv3::layout_policy<dsv3::compact_layout>);
  CHECK_FALSE(dsv3::layout_policy<nothing>);
  CHECK(dsv3::default_layout::experts::alignment == 128);
  CHECK(dsv3::compact_layout::experts::alignment == 1);
  CHECK(dsv3::compact_layout::rope == dsv3::rope_layout::interleaved);
}
