// SPDX-License-Identifier: MIT
// A shape: up to five extents, printable; what a bundle's table of contents says of each field.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>

#include <initializer_list>
#include <string>

namespace dsv3::inline DSV3_ABI {

class shape {
 public:
  static constexpr int max_rank = 5;

  constexpr shape() = default;
  constexpr shape(std::initializer_list<index_t> extents) {
    if (extents.size() > max_rank) raise("shape: more than five extents");
    for (index_t extent : extents) extents_[rank_++] = extent;
  }

  constexpr int rank() const { return rank_; }
  constexpr index_t operator[](int axis) const { return extents_[axis]; }

  /// Number of elements; zero for the empty shape of a field that is not kept.
  constexpr index_t elements() const {
    if (rank_ == 0) return 0;
    index_t product = 1;
    for (int axis = 0; axis < rank_; ++axis) product *= extents_[axis];
    return product;
  }

  friend constexpr bool operator==(const shape& a, const shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int axis = 0; axis < a.rank_; ++axis)
      if (a.extents_[axis] != b.extents_[axis]) return false;
    return true;
  }

 private:
  index_t extents_[max_rank] = {};
  int rank_ = 0;
};

/// "[3, 4]"
inline std::string to_string(const shape& s) {
  std::string text = "[";
  for (int axis = 0; axis < s.rank(); ++axis) text += (axis ? ", " : "") + std::to_string(s[axis]);
  return text + "]";
}

}  // namespace dsv3::inline DSV3_ABI
