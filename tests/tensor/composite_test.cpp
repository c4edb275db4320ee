// SPDX-License-Identifier: MIT
// Views of several parts: ragged rows, paged rows, scaled tiles, packed sequences.
#include <dsv3/number/bf16.hpp>
#include <dsv3/tensor/packed_sequences.hpp>
#include <dsv3/tensor/paged.hpp>
#include <dsv3/tensor/ragged.hpp>
#include <dsv3/tensor/scaled.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <numeric>
#include <type_traits>
#include <vector>

using dsv3::view;

TEST_CASE("a ragged group is its live rows; padding lies between groups") {
  std::vector<float> values(8 * 3);
  std::iota(values.begin(), values.end(), 0.0f);
  const std::int32_t offsets[] = {0, 4, 4, 8}, counts[] = {2, 0, 4};
  const dsv3::ragged_view<float> rows{view{values.data(), 8, 3}, view{offsets, 4}, view{counts, 3}};
  CHECK(rows.groups() == 3);
  CHECK(rows.width() == 3);
  CHECK(rows.group(0).extents() == dsv3::shape{2, 3});
  CHECK(rows.group(0)(1, 2) == 5);
  CHECK(rows.group(1).empty());
  CHECK(rows.group(2)(3, 0) == 21);
  const dsv3::ragged_view<const float> read = rows;
  CHECK(read.group(2).data() == values.data() + 12);
  CHECK_FALSE(std::is_convertible_v<dsv3::ragged_view<const float>, dsv3::ragged_view<float>>);
}

TEST_CASE("a paged row is found through the table") {
  std::vector<float> pool(3 * 2 * 4);
  std::iota(pool.begin(), pool.end(), 0.0f);
  const std::int32_t table[] = {2, 0, 1, -1}, lengths[] = {3, 1};
  const dsv3::paged_view<float> cache{view{pool.data(), 3, 2, 4}, view{table, 2, 2}, view{lengths, 2}};
  CHECK(cache.page_rows() == 2);
  CHECK(cache.row(0, 0).data() == pool.data() + 16);
  CHECK(cache.row(0, 1)(3) == 23);
  CHECK(cache.row(0, 2)(0) == 0);
  CHECK(cache.row(1, 0)(1) == 9);
  const dsv3::paged_view<const float> read = cache;
  CHECK(read.row(1, 0)(1) == 9);
}

TEST_CASE("a scaled view has one scale for a tile, those at the edges too") {
  std::vector<dsv3::bf16> values(3 * 5, dsv3::bf16(1.0f));
  float scales[] = {1, 2, 3, 4, 5, 6};
  using tile = dsv3::tile<2, 2>;
  const dsv3::scaled_view<dsv3::bf16, tile> row_scales{view{values.data(), 3, 5},
                                                       view<float, 2, dsv3::strided>{scales, 2, 3}};
  CHECK(row_scales.scale_of(0, 0) == 1);
  CHECK(row_scales.scale_of(1, 3) == 2);
  CHECK(row_scales.scale_of(2, 4) == 6);
  // The same scales, the other extent contiguous.
  const dsv3::index_t extents[] = {2, 3}, strides[] = {1, 2};
  const dsv3::scaled_view<dsv3::bf16, tile> column_scales{
      view{values.data(), 3, 5}, view<float, 2, dsv3::strided>{scales, extents, strides}};
  CHECK(column_scales.scale_of(2, 0) == 2);
  CHECK(column_scales.scale_of(0, 4) == 5);
}

TEST_CASE("packed sequences count") {
  const std::int32_t offsets[] = {0, 2, 2, 5}, positions[] = {0, 1, 0, 1, 2};
  const dsv3::packed_sequences three{
      .offsets = view{offsets, 4}, .positions = view{positions, 5}, .max_length = 3};
  CHECK(three.sequences() == 3);
  CHECK(three.tokens() == 5);
  CHECK(dsv3::packed_sequences{}.sequences() == 0);
  CHECK(dsv3::packed_sequences{}.tokens() == 0);
}
