// SPDX-License-Identifier: MIT
// An order of any number of things that takes no memory: the n-th place is computed, not looked up.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/exec/random.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>

namespace dsv3::inline DSV3_ABI {

/// A permutation of [0, count) that is a function of the stream alone: a Feistel network over the next even
/// power of two (Luby and Rackoff, 1988), walked until it comes back into the range. That power is below
/// 4 count, so fewer than four steps are walked on average.
class index_permutation {
 public:
  index_permutation(index_t count, const random_stream& random)
      : count_(static_cast<std::uint64_t>(count)),
        half_bits_((std::bit_width(std::max<std::uint64_t>(count_, 2) - 1) + 1) / 2),
        random_(random) {}

  index_t count() const { return static_cast<index_t>(count_); }

  index_t operator()(index_t place) const {
    auto value = static_cast<std::uint64_t>(place);
    do value = mixed(value);
    while (value >= count_);
    return static_cast<index_t>(value);
  }

 private:
  static constexpr std::uint64_t rounds = 6;

  std::uint64_t mixed(std::uint64_t value) const {
    const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
    std::uint64_t left = value >> half_bits_, right = value & mask;
    for (std::uint64_t round = 0; round < rounds; ++round) {
      const std::uint64_t turned = left ^ (random_.at((round << 32) | right).value[0] & mask);
      left = right;
      right = turned;
    }
    return (left << half_bits_) | right;
  }

  std::uint64_t count_;
  int half_bits_;  // at most 32
  random_stream random_;
};

}  // namespace dsv3::inline DSV3_ABI
