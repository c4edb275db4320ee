// SPDX-License-Identifier: MIT
// view<T, Rank, Layout>: a pointer, extents and strides. It never owns.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>
#include <dsv3/tensor/layout.hpp>
#include <dsv3/tensor/shape.hpp>

#include <concepts>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// Dense data. Extents are run-time values; one type in every translation unit, under g++ and nvcc alike.
/// Conversion from view<T> to view<const T> is implicit; the reverse does not exist.
template <class T, int Rank, class Layout = row_major>
class view {
  static_assert(Rank >= 1 && Rank <= shape::max_rank, "a view has one to five extents");

 public:
  using element = T;
  static constexpr int rank = Rank;

  /// The empty view: every extent zero. Records use it for "not asked for".
  constexpr view() = default;

  /// Contiguous data in the layout's order.
  template <std::integral... Extent>
    requires(sizeof...(Extent) == Rank)
  DSV3_HOST_DEVICE constexpr explicit view(T* data, Extent... extents)
      : data_(data), extents_{static_cast<index_t>(extents)...} {
    pack();
  }

  /// Data with given strides. For row_major the last stride must be 1, for column_major the first.
  DSV3_HOST_DEVICE constexpr view(T* data, const index_t (&extents)[Rank], const index_t (&strides)[Rank])
      : data_(data) {
    for (int axis = 0; axis < Rank; ++axis) extents_[axis] = extents[axis], strides_[axis] = strides[axis];
  }

  /// Contiguous data of a shape; the shape's rank must be the view's, or zero for the empty view.
  static view of_shape(T* data, const shape& s) {
    view result;
    if (s.rank() == 0) return result;
    if (s.rank() != Rank)
      raise("view: shape " + to_string(s) + " given to a view of rank " + std::to_string(Rank));
    for (int axis = 0; axis < Rank; ++axis) result.extents_[axis] = s[axis];
    result.pack();
    result.data_ = data;
    return result;
  }

  template <class U>
    requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
  DSV3_HOST_DEVICE constexpr view(const view<U, Rank, Layout>& other) : data_(other.data()) {
    for (int axis = 0; axis < Rank; ++axis)
      extents_[axis] = other.extent(axis), strides_[axis] = other.stride(axis);
  }

  DSV3_HOST_DEVICE constexpr T* data() const { return data_; }
  DSV3_HOST_DEVICE constexpr index_t extent(int axis) const { return extents_[axis]; }
  DSV3_HOST_DEVICE constexpr index_t stride(int axis) const { return strides_[axis]; }
  DSV3_HOST_DEVICE constexpr index_t size() const {
    index_t product = 1;
    for (int axis = 0; axis < Rank; ++axis) product *= extents_[axis];
    return product;
  }
  DSV3_HOST_DEVICE constexpr bool empty() const { return size() == 0; }

  template <std::integral... Index>
    requires(sizeof...(Index) == Rank)
  DSV3_HOST_DEVICE constexpr T& operator()(Index... indices) const {
    const index_t at[] = {static_cast<index_t>(indices)...};
    index_t offset = 0;
    for (int axis = 0; axis < Rank; ++axis) offset += at[axis] * strides_[axis];
    return data_[offset];
  }

  /// The part with first index `index`: a row of a matrix, a matrix of a stack.
  DSV3_HOST_DEVICE constexpr auto operator[](index_t index) const requires(Rank > 1) {
    view<T, Rank - 1, Layout> part;
    part.data_ = data_ + index * strides_[0];
    for (int axis = 1; axis < Rank; ++axis) {
      part.extents_[axis - 1] = extents_[axis];
      part.strides_[axis - 1] = strides_[axis];
    }
    return part;
  }

  /// Indices [begin, end) of one axis; the others whole.
  DSV3_HOST_DEVICE constexpr view slice(int axis, index_t begin, index_t end) const {
    view part = *this;
    part.data_ += begin * strides_[axis];
    part.extents_[axis] = end - begin;
    return part;
  }
  DSV3_HOST_DEVICE constexpr view rows(index_t begin, index_t end) const { return slice(0, begin, end); }
  DSV3_HOST_DEVICE constexpr view columns(index_t begin, index_t end) const {
    return slice(Rank - 1, begin, end);
  }

  /// [tokens, outer * inner] seen as [tokens, outer, inner].
  DSV3_HOST_DEVICE constexpr view<T, 3, Layout> split_columns(index_t inner) const
      requires(Rank == 2 && std::is_same_v<Layout, row_major>) {
    const index_t extents[] = {extents_[0], inner == 0 ? 0 : extents_[1] / inner, inner};
    const index_t strides[] = {strides_[0], inner, 1};
    return {data_, extents, strides};
  }

  /// [a, b, c] seen as [a, b * c]; needs contiguous rows of rows.
  view<T, 2, Layout> join_columns() const requires(Rank == 3 && std::is_same_v<Layout, row_major>) {
    if (strides_[1] != extents_[2] && extents_[1] > 1) raise("view: join_columns needs adjoining rows");
    const index_t extents[] = {extents_[0], extents_[1] * extents_[2]};
    const index_t strides[] = {strides_[0], 1};
    return {data_, extents, strides};
  }

  /// True when the elements fill one gapless stretch of memory in row-major order.
  DSV3_HOST_DEVICE constexpr bool contiguous() const {
    if (empty()) return true;
    index_t stride = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      if (extents_[axis] != 1 && strides_[axis] != stride) return false;
      stride *= extents_[axis];
    }
    return true;
  }

  /// All elements as one row; needs contiguous().
  view<T, 1> flat() const {
    if (!contiguous()) raise("view: flat needs contiguous elements");
    return view<T, 1>{data_, size()};
  }

  shape extents() const {
    if constexpr (Rank == 1)
      return {extents_[0]};
    else if constexpr (Rank == 2)
      return {extents_[0], extents_[1]};
    else if constexpr (Rank == 3)
      return {extents_[0], extents_[1], extents_[2]};
    else if constexpr (Rank == 4)
      return {extents_[0], extents_[1], extents_[2], extents_[3]};
    else
      return {extents_[0], extents_[1], extents_[2], extents_[3], extents_[4]};
  }

 private:
  template <class, int, class>
  friend class view;

  // The strides of gapless elements in the layout's order.
  DSV3_HOST_DEVICE constexpr void pack() {
    index_t stride = 1;
    if constexpr (std::is_same_v<Layout, column_major>) {
      for (int axis = 0; axis < Rank; ++axis) strides_[axis] = stride, stride *= extents_[axis];
    } else {
      for (int axis = Rank - 1; axis >= 0; --axis) strides_[axis] = stride, stride *= extents_[axis];
    }
  }

  T* data_ = nullptr;
  index_t extents_[Rank] = {};
  index_t strides_[Rank] = {};
};

template <class T, std::integral... Extent>
view(T*, Extent...) -> view<T, sizeof...(Extent)>;

}  // namespace dsv3::inline DSV3_ABI
