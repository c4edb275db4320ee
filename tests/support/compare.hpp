// SPDX-License-Identifier: MIT
// Comparison with an oracle, row by row, so that one wrong row cannot hide among many right ones.
#pragma once

#include <dsv3/base/index.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace support {

using dsv3::index_t;

/// The worst |found - expected| / max |expected row|, over rows of `width`; infinity when a NaN, an infinity
/// or a size is not where it should be. Rows whose expected values are all below `floor` are measured against
/// `floor`.
inline double worst_row(const std::vector<double>& found, const std::vector<double>& expected, index_t width,
                        double floor = 1e-30) {
  if (found.size() != expected.size()) return INFINITY;
  double worst = 0;
  const auto w = static_cast<std::size_t>(std::max<index_t>(width, 1));
  for (std::size_t begin = 0; begin < found.size(); begin += w) {
    double scale = floor, error = 0;
    for (std::size_t i = begin; i < std::min(begin + w, found.size()); ++i) {
      if (std::isfinite(expected[i]) != std::isfinite(found[i])) return INFINITY;
      if (!std::isfinite(expected[i])) {
        if (std::isnan(expected[i]) != std::isnan(found[i]) ||
            (!std::isnan(found[i]) && found[i] != expected[i]))
          return INFINITY;
        continue;
      }
      scale = std::max(scale, std::fabs(expected[i]));
      error = std::max(error, std::fabs(found[i] - expected[i]));
    }
    worst = std::max(worst, error / scale);
  }
  return worst;
}

/// The slope of `loss` with respect to one number, by central differences.
template <class Loss>
double central_difference(double& number, double step, Loss&& loss) {
  const double at = number;
  number = at + step;
  const double above = loss();
  number = at - step;
  const double below = loss();
  number = at;
  return (above - below) / (2 * step);
}

}  // namespace support
