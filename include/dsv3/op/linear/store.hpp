// SPDX-License-Identifier: MIT
// What a product does with what its output holds.
#pragma once

#include <dsv3/base/config.hpp>

namespace dsv3::inline DSV3_ABI {

enum class store {
  write,  // the output's former content is never read
  add,    // the result is added to it
};

}  // namespace dsv3::inline DSV3_ABI
