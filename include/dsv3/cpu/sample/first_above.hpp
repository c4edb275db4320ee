// SPDX-License-Identifier: MIT
// Where a running sum of weights passes a number: how a token is drawn.
#pragma once

#include <dsv3/base/index.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cpu {

/// Σ weight(v) over [begin, end).
template <class Sum, class Weight>
Sum weight_sum(index_t begin, index_t end, const Weight& weight) {
  Sum sum = 0;
  for (index_t v = begin; v < end; ++v) sum += weight(v);
  return sum;
}

/// The smallest v with Σ_{u <= v} weight(u) > bound; -1 where there is none.
template <class Sum, class Weight>
index_t first_above(Sum bound, index_t count, const Weight& weight) {
  constexpr index_t block = 1024;  // whole blocks are summed several weights at a time
  for (index_t begin = 0; begin < count; begin += block) {
    const index_t end = std::min(begin + block, count);
    const Sum sum = weight_sum<Sum>(begin, end, weight);
    if (bound >= sum) {
      bound -= sum;
      continue;
    }
    for (index_t v = begin;; ++v) {
      const Sum w = weight(v);
      if (bound < w) return v;
      bound -= w;
    }
  }
  return -1;
}

}  // namespace dsv3::inline DSV3_ABI::cpu
