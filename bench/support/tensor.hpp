// SPDX-License-Identifier: MIT
// A tensor that owns its memory, for benches.
#pragma once

#include <dsv3/exec/memory.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/tensor/view.hpp>

#include <concepts>

namespace support {

using dsv3::index_t;

/// Contiguous elements on a cache line boundary, zero at first.
template <class T, int Rank = 2>
class tensor {
 public:
  template <std::integral... Extent>
  explicit tensor(Extent... extents)
      : block_(memory(),
               sizeof(T) * static_cast<std::size_t>((index_t{1} * ... * static_cast<index_t>(extents)))),
        view_(reinterpret_cast<T*>(block_.data()), extents...) {
    fill(T());
  }

  dsv3::view<T, Rank> get() const { return view_; }
  operator dsv3::view<T, Rank>() const { return view_; }
  operator dsv3::view<const T, Rank>() const { return view_; }
  index_t bytes() const { return view_.size() * static_cast<index_t>(sizeof(T)); }

  tensor& fill(T value) {
    for (index_t i = 0; i < view_.size(); ++i) view_.data()[i] = value;
    return *this;
  }
  /// element(i) for the i-th element.
  template <class Rule>
  tensor& generate(Rule&& element) {
    for (index_t i = 0; i < view_.size(); ++i) view_.data()[i] = element(i);
    return *this;
  }
  /// Normal numbers; the first 65536 repeat, so that filling a large tensor takes no time worth mentioning.
  tensor& normal(std::uint64_t stream, double deviation = 1) {
    const dsv3::random_stream random(20260101, stream);
    constexpr index_t period = 65536;
    for (index_t i = 0; i < view_.size(); ++i)
      view_.data()[i] = i < period
                            ? T(static_cast<float>(deviation * random.normal(static_cast<std::uint64_t>(i))))
                            : view_.data()[i - period];
    return *this;
  }

 private:
  static dsv3::memory_resource& memory() {
    static dsv3::host_memory heap;
    return heap;
  }

  dsv3::memory_block block_;
  dsv3::view<T, Rank> view_;
};

}  // namespace support
