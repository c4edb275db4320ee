// SPDX-License-Identifier: MIT
// view and shape: addressing, parts, conversions, sentences.
#include <dsv3/tensor/view.hpp>

#include <doctest/doctest.h>

#include <numeric>
#include <type_traits>
#include <vector>

using dsv3::index_t;
using dsv3::shape;
using dsv3::view;

namespace {

std::vector<int> counted(int count) {
  std::vector<int> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

}  // namespace

TEST_CASE("the empty view") {
  const view<int, 3> none;
  CHECK(none.empty());
  CHECK(none.size() == 0);
  CHECK(none.data() == nullptr);
  CHECK(none.contiguous());
  CHECK(none.extents() == shape{0, 0, 0});
}

TEST_CASE("row-major addressing") {
  auto values = counted(24);
  const view x{values.data(), 2, 3, 4};
  CHECK(x.size() == 24);
  CHECK(x.stride(0) == 12);
  CHECK(x.stride(1) == 4);
  CHECK(x.stride(2) == 1);
  CHECK(x(1, 2, 3) == 23);
  CHECK(x(1, 0, 2) == 14);
  CHECK(x[1][2](3) == 23);
  x(0, 1, 0) = -4;
  CHECK(values[4] == -4);
}

TEST_CASE("column-major addressing, from extents and from a shape") {
  auto values = counted(6);
  const view<int, 2, dsv3::column_major> x{values.data(), 2, 3};
  CHECK(x(1, 0) == 1);
  CHECK(x(0, 1) == 2);
  CHECK(x(1, 2) == 5);
  const auto same = view<int, 2, dsv3::column_major>::of_shape(values.data(), shape{2, 3});
  CHECK(same.stride(0) == 1);
  CHECK(same.stride(1) == 2);
}

TEST_CASE("strided addressing") {
  auto values = counted(12);
  const index_t extents[] = {3, 2}, strides[] = {1, 6};
  const view<int, 2, dsv3::strided> x{values.data(), extents, strides};
  CHECK(x(2, 1) == 8);
  CHECK(x[2](1) == 8);
  CHECK_FALSE(x.contiguous());
}

TEST_CASE("rows, columns and slices are views of the same memory") {
  auto values = counted(20);
  const view x{values.data(), 4, 5};
  const auto rows = x.rows(1, 3);
  CHECK(rows.extents() == shape{2, 5});
  CHECK(rows(0, 0) == 5);
  CHECK(rows.contiguous());
  const auto columns = x.columns(2, 4);
  CHECK(columns.extents() == shape{4, 2});
  CHECK(columns(3, 1) == 18);
  CHECK_FALSE(columns.contiguous());
  CHECK(x.rows(2, 2).empty());
  CHECK(x.slice(0, 3, 4).contiguous());
  CHECK(columns.rows(1, 2).contiguous());  // one row is gapless whatever its stride
}

TEST_CASE("columns split into heads and joined again") {
  auto values = counted(24);
  const view x{values.data(), 2, 12};
  const auto heads = x.split_columns(4);
  CHECK(heads.extents() == shape{2, 3, 4});
  CHECK(heads(1, 2, 1) == x(1, 9));
  const auto joined = heads.join_columns();
  CHECK(joined.extents() == shape{2, 12});
  CHECK(joined(1, 9) == x(1, 9));
  CHECK(x.columns(0, 8).split_columns(4)(1, 1, 0) == x(1, 4));
  CHECK_THROWS_WITH_AS(heads.slice(2, 0, 2).join_columns(), "view: join_columns needs adjoining rows",
                       dsv3::error);
}

TEST_CASE("flat needs contiguous elements") {
  auto values = counted(6);
  const view x{values.data(), 2, 3};
  CHECK(x.flat().extent(0) == 6);
  CHECK(x.flat()(4) == 4);
  CHECK_THROWS_WITH_AS(x.columns(0, 2).flat(), "view: flat needs contiguous elements", dsv3::error);
}

TEST_CASE("a view becomes a view of constants, never the reverse") {
  auto values = counted(6);
  const view x{values.data(), 2, 3};
  const view<const int, 2> read = x.columns(1, 3);
  CHECK(read(1, 0) == 4);
  CHECK(read.stride(0) == 3);
  CHECK(std::is_convertible_v<view<int, 2>, view<const int, 2>>);
  CHECK_FALSE(std::is_convertible_v<view<const int, 2>, view<int, 2>>);
  CHECK_FALSE(std::is_convertible_v<view<int, 2>, view<float, 2>>);
  CHECK_FALSE(std::is_convertible_v<view<int, 2>, view<int, 1>>);
  CHECK(std::is_trivially_copyable_v<view<int, 2>>);  // kernels take it by value
}

TEST_CASE("a view of a shape") {
  auto values = counted(6);
  const auto x = view<int, 2>::of_shape(values.data(), shape{2, 3});
  CHECK(x(1, 2) == 5);
  CHECK(view<int, 2>::of_shape(values.data(), shape{}).data() == nullptr);
  CHECK_THROWS_WITH_AS((view<int, 2>::of_shape(values.data(), shape{6})),
                       "view: shape [6] given to a view of rank 2", dsv3::error);
}

TEST_CASE("shapes count and print") {
  CHECK(shape{}.elements() == 0);
  CHECK(shape{7}.elements() == 7);
  CHECK(shape{2, 0, 3}.elements() == 0);
  CHECK(shape{1 << 20, 1 << 20}.elements() == index_t{1} << 40);
  CHECK(shape{2, 3} == shape{2, 3});
  CHECK_FALSE(shape{2, 3} == shape{3, 2});
  CHECK_FALSE(shape{2} == shape{2, 1});
  CHECK(to_string(shape{}) == "[]");
  CHECK(to_string(shape{3, 4}) == "[3, 4]");
  CHECK_THROWS_WITH_AS((shape{1, 2, 3, 4, 5, 6}), "shape: more than five extents", dsv3::error);
}
