// SPDX-License-Identifier: MIT
// How steps are executed: as they are written, or by one who has recorded them.
#pragma once

#include <dsv3/base/config.hpp>

#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Executes the work of a step as it is written. What may execute it otherwise, for one who has recorded it,
/// gets a key besides: all numbers of the host that the work depends on.
struct directly {
  template <class Ctx, class Work>
  void operator()(Ctx& ctx, const std::vector<double>&, Work&& work) const {
    work(ctx);
  }
};

}  // namespace dsv3::inline DSV3_ABI
