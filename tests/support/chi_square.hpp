// SPDX-License-Identifier: MIT
// How likely counts are to come from a distribution.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace support {

/// Γ(a, x) / Γ(a), the upper tail, for a > 0, x >= 0: by the series of the lower one, or by the continued
/// fraction.
inline double upper_gamma(double a, double x) {
  const double front = std::exp(a * std::log(x) - x - std::lgamma(a));
  if (x <= 0) return 1;
  if (x < a + 1) {
    double term = 1 / a, sum = term;
    for (double n = a + 1; term > sum * 1e-16; ++n) sum += term *= x / n;
    return 1 - front * sum;
  }
  double b = x + 1 - a, d = 1 / b, c = 1e300, fraction = d;
  for (int i = 1; i < 10000; ++i) {
    const double numerator = -i * (i - a);
    b += 2;
    d = 1 / (numerator * d + b);
    c = b + numerator / c;
    fraction *= c * d;
    if (std::fabs(c * d - 1) < 1e-15) break;
  }
  return front * fraction;
}

/// Pearson's test: the probability of counts at least as far from the expected ones. 0 where something was
/// counted that cannot be.
inline double chi_square_p(const std::vector<double>& counts, const std::vector<double>& probabilities) {
  double draws = 0, statistic = 0;
  int cells = 0;
  for (const double count : counts) draws += count;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = draws * probabilities[i];
    if (expected == 0 && counts[i] > 0) return 0;
    if (expected == 0) continue;
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++cells;
  }
  return cells < 2 ? 1 : upper_gamma((cells - 1) / 2.0, statistic / 2);
}

/// Fixed seeds make a test of chance repeatable: right rules must lie above the one, wrong rules below the
/// other.
inline constexpr double plausible = 1e-3, impossible = 1e-12;

}  // namespace support
