// SPDX-License-Identifier: MIT
// How a view's elements lie in memory.
#pragma once

#include <dsv3/base/config.hpp>

namespace dsv3::inline DSV3_ABI {

/// The last extent is contiguous (its stride is 1); outer strides are free: a column range is a view.
struct row_major {};
/// The first extent is contiguous; what some matrix units want of their right operand.
struct column_major {};
/// Any stride in any extent.
struct strided {};

}  // namespace dsv3::inline DSV3_ABI
