// SPDX-License-Identifier: MIT
// Extents and offsets are 64-bit everywhere; this header holds the arithmetic on them.
#pragma once

#include <dsv3/base/config.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv3::inline DSV3_ABI {

/// Every extent, stride and offset. Tensors with more than 2^31 elements are ordinary.
using index_t = std::int64_t;

DSV3_HOST_DEVICE constexpr index_t ceil_div(index_t count, index_t unit) { return (count + unit - 1) / unit; }
DSV3_HOST_DEVICE constexpr index_t round_up(index_t count, index_t unit) {
  return ceil_div(count, unit) * unit;
}

/// The half-open range [begin, end) that part `part` of `parts` gets of `count` things, evenly to one.
struct index_range {
  index_t begin = 0, end = 0;
  DSV3_HOST_DEVICE constexpr index_t count() const { return end - begin; }
};
DSV3_HOST_DEVICE constexpr index_range split_range(index_t count, index_t part, index_t parts) {
  return {count * part / parts, count * (part + 1) / parts};
}

}  // namespace dsv3::inline DSV3_ABI
