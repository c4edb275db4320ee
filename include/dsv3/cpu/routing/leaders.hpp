// SPDX-License-Identifier: MIT
// The largest few of many numbers, in an order that does not depend on anything but the numbers.
#pragma once

#include <dsv3/base/index.hpp>

#include <cstdint>
#include <limits>

namespace dsv3::inline DSV3_ABI::cpu {

/// Keeps the `room` largest values offered, largest first. Offer them by ascending index: of equal values the
/// smaller index wins. A NaN ranks with minus infinity, so that whatever is offered, `room` distinct indices
/// come out.
template <class T>
class leaders {
 public:
  /// Both arrays have `room` elements and belong to the caller.
  leaders(T* values, std::int32_t* indices, index_t room) : values_(values), indices_(indices), room_(room) {}

  void offer(T value, index_t index) {
    if (value != value) value = -std::numeric_limits<T>::infinity();
    if (count_ == room_ && !(value > values_[room_ - 1])) return;
    index_t at = count_ < room_ ? count_++ : room_ - 1;
    for (; at > 0 && value > values_[at - 1]; --at)
      values_[at] = values_[at - 1], indices_[at] = indices_[at - 1];
    values_[at] = value;
    indices_[at] = static_cast<std::int32_t>(index);
  }

  T sum() const {
    T total = 0;
    for (index_t i = 0; i < count_; ++i) total += values_[i];
    return total;
  }

 private:
  T* values_;
  std::int32_t* indices_;
  index_t room_, count_ = 0;
};

}  // namespace dsv3::inline DSV3_ABI::cpu
