// SPDX-License-Identifier: MIT
// Speculative acceptance of one sequence in plain doubles, and rules that are wrong in ways a test must
// notice.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace oracle {

struct verified {
  std::size_t accepted;
  int next;
  bool operator==(const verified&) const = default;
};

enum class rule { right, no_residual, always_accept, first_bonus };

inline int draw(const std::vector<double>& weights, double uniform) {
  double total = 0, sum = 0;
  for (const double w : weights) total += w;
  for (std::size_t v = 0; v < weights.size(); ++v)
    if ((sum += weights[v]) > uniform * total) return int(v);
  return -1;
}

/// p: one distribution more than there are drafts; q: one for each; u, d: two uniforms for each of p.
inline verified accept_draft(const std::vector<std::vector<double>>& p,
                             const std::vector<std::vector<double>>& q, const std::vector<int>& y,
                             const std::vector<double>& u, const std::vector<double>& d,
                             rule how = rule::right) {
  for (std::size_t i = 0; i < y.size(); ++i) {
    const auto token = std::size_t(y[i]);
    if (how == rule::always_accept || u[i] * q[i][token] < p[i][token]) continue;
    std::vector<double> residual = p[i];
    if (how != rule::no_residual)
      for (std::size_t v = 0; v < residual.size(); ++v) residual[v] = std::max(p[i][v] - q[i][v], 0.0);
    return {i, draw(residual, d[i])};
  }
  return {y.size(), draw(how == rule::first_bonus ? p[0] : p.back(), d[y.size()])};
}

}  // namespace oracle
