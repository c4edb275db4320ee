// SPDX-License-Identifier: MIT
// The one table of tolerances: what a result in a precision may differ from the double-precision oracle, as a
// share of the largest magnitude of the row it stands in.
#pragma once

#include <dsv3/number/precision.hpp>

namespace support {

template <class P>
struct tolerance;
template <>
struct tolerance<dsv3::fp64_reference> {
  static constexpr double row = 1e-12;
};
template <>
struct tolerance<dsv3::fp32> {
  static constexpr double row = 2e-5;
};
template <>
struct tolerance<dsv3::bf16_mixed> {
  static constexpr double row = 2e-2;
};

/// Products of 8-bit numbers of which a matrix unit, or the model of one, sums 128 in few bits before they
/// become floats.
inline constexpr double few_bits_row = 2e-3;

/// Central differences in double: step and allowed relative error of the slope.
inline constexpr double difference_step = 1e-5, difference_tolerance = 2e-7;

}  // namespace support
