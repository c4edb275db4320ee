// SPDX-License-Identifier: MIT
// A sum of squares with Kahan's compensation.
#pragma once

#include <vector>

namespace oracle {

inline double square_sum(const std::vector<double>& x) {
  double sum = 0, lost = 0;
  for (const double value : x) {
    const double term = value * value - lost;
    const double next = sum + term;
    lost = (next - sum) - term;
    sum = next;
  }
  return sum;
}

}  // namespace oracle
