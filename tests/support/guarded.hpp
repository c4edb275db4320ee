// SPDX-License-Identifier: MIT
// A tensor for tests: guard bytes on both sides, poison wherever the view does not reach, and a check of
// both.
#pragma once

#include <dsv3/exec/random.hpp>
#include <dsv3/tensor/view.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace support {

using dsv3::index_t;

template <class T>
T poison() {
  if constexpr (std::is_integral_v<T>)
    return (std::is_signed_v<T> ? std::numeric_limits<T>::min() : std::numeric_limits<T>::max()) / 3;
  else
    return T(std::numeric_limits<float>::quiet_NaN());
}

/// Owns [rows.., columns] elements whose rows lie `gap` elements further apart than they need to. Everything
/// outside the view (guards, gaps) is poison and must stay so: `intact()`. The view starts as poison too.
template <class T, int Rank = 2>
class guarded {
 public:
  template <class... Extent>
  explicit guarded(index_t gap, Extent... extents) : extents_{static_cast<index_t>(extents)...} {
    index_t stride = extents_[Rank - 1] + gap;
    strides_[Rank - 1] = 1;
    for (int axis = Rank - 2; axis >= 0; --axis) strides_[axis] = stride, stride *= extents_[axis];
    if (Rank == 1) stride = extents_[0];
    storage_.assign(static_cast<std::size_t>(stride + 2 * guard), poison<T>());
  }

  dsv3::view<T, Rank> get() { return {storage_.data() + guard, extents_, strides_}; }
  operator dsv3::view<T, Rank>() { return get(); }
  operator dsv3::view<const T, Rank>() { return get(); }

  /// Every element of the view: element = make(flat index).
  template <class Make>
  guarded& fill(Make&& make) {
    index_t at = 0;
    each(get(), [&](T& value) { value = T(make(at++)); });
    return *this;
  }
  guarded& normal(std::uint64_t stream, double deviation = 1) {
    const dsv3::random_stream random(20260101, stream);
    return fill([&](index_t i) { return deviation * random.normal(static_cast<std::uint64_t>(i)); });
  }

  /// The elements in row-major order, as double.
  std::vector<double> values() {
    std::vector<double> result;
    each(get(), [&](T& value) { result.push_back(static_cast<double>(value)); });
    return result;
  }
  void assign(const std::vector<double>& from) {
    fill([&](index_t i) { return from[static_cast<std::size_t>(i)]; });
  }

  /// The bytes of everything, for bitwise comparison.
  std::vector<T> raw() const { return storage_; }
  bool same_bits(const guarded& other) const {
    return storage_.size() == other.storage_.size() &&
           std::memcmp(storage_.data(), other.storage_.data(), storage_.size() * sizeof(T)) == 0;
  }

  /// True when nothing outside the view was written.
  bool intact() {
    std::vector<char> inside(storage_.size(), 0);
    each(get(), [&](T& value) { inside[static_cast<std::size_t>(&value - storage_.data())] = 1; });
    const T mark = poison<T>();
    for (std::size_t i = 0; i < storage_.size(); ++i)
      if (!inside[i] && std::memcmp(&storage_[i], &mark, sizeof(T)) != 0) return false;
    return true;
  }

 private:
  static constexpr index_t guard = 16;

  template <class V, class Visit>
  static void each(V v, Visit&& visit) {
    for (index_t i = 0; i < v.extent(0); ++i) {
      if constexpr (V::rank == 1)
        visit(v(i));
      else
        each(v[i], visit);
    }
  }

  index_t extents_[Rank];
  index_t strides_[Rank];
  std::vector<T> storage_;
};

}  // namespace support
