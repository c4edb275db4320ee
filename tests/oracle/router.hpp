// SPDX-License-Identifier: MIT
// The router in plain double precision: every expert is ranked by counting those that beat it.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace oracle {

struct routing {
  std::size_t hidden, experts, top_k, groups, kept_groups;
  bool normalise;
  double scale;
};

/// s [tokens, experts]
inline std::vector<double> router_scores(const std::vector<double>& x, const std::vector<double>& centroids,
                                         const routing& r) {
  const std::size_t tokens = x.size() / r.hidden;
  std::vector<double> s(tokens * r.experts);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t e = 0; e < r.experts; ++e) {
      double z = 0;
      for (std::size_t i = 0; i < r.hidden; ++i) z += x[t * r.hidden + i] * centroids[e * r.hidden + i];
      s[t * r.experts + e] = 1 / (1 + std::exp(-z));
    }
  return s;
}

/// How many of `values` are larger than values[at], or equal and earlier.
inline std::size_t rank_of(const std::vector<double>& values, std::size_t at) {
  std::size_t rank = 0;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (values[i] > values[at] || (values[i] == values[at] && i < at)) ++rank;
  return rank;
}

/// The experts of one token, given c = s + bias. `masked` is what experts of dropped groups get instead of c.
inline std::vector<int> router_choice(const std::vector<double>& c, const routing& r,
                                      double masked = -std::numeric_limits<double>::infinity()) {
  const std::size_t members = r.experts / r.groups;
  std::size_t summed = r.top_k / r.kept_groups;
  if (summed == 0) summed = 1;
  std::vector<double> group_score(r.groups, 0.0);
  for (std::size_t g = 0; g < r.groups; ++g) {
    const std::vector<double> group(c.begin() + std::ptrdiff_t(g * members),
                                    c.begin() + std::ptrdiff_t((g + 1) * members));
    for (std::size_t rank = 0; rank < summed; ++rank)
      for (std::size_t m = 0; m < members; ++m)
        if (rank_of(group, m) == rank) group_score[g] += group[m];
  }
  std::vector<double> eligible = c;
  for (std::size_t e = 0; e < r.experts; ++e)
    if (rank_of(group_score, e / members) >= r.kept_groups) eligible[e] = masked;
  std::vector<int> ids(r.top_k);
  for (std::size_t e = 0; e < r.experts; ++e) {
    const std::size_t rank = rank_of(eligible, e);
    if (rank < r.top_k) ids[rank] = int(e);
  }
  return ids;
}

/// gates [tokens, top_k] of given choices
inline std::vector<double> router_gates(const std::vector<double>& s, const std::vector<int>& ids,
                                        const routing& r) {
  std::vector<double> gates(ids.size());
  for (std::size_t t = 0; t < ids.size() / r.top_k; ++t) {
    double z = 1e-20;
    for (std::size_t k = 0; k < r.top_k; ++k) z += s[t * r.experts + std::size_t(ids[t * r.top_k + k])];
    for (std::size_t k = 0; k < r.top_k; ++k)
      gates[t * r.top_k + k] =
          r.scale * s[t * r.experts + std::size_t(ids[t * r.top_k + k])] / (r.normalise ? z : 1.0);
  }
  return gates;
}

struct router_gradients {
  std::vector<double> dlogits, dx, dcentroids;
};

/// The Jacobian of the gates written out: d gate_k / d s_j = scale (δ_kj / Z - s_k / Z²).
inline router_gradients router_backward(const std::vector<double>& dgates, const std::vector<double>& dscores,
                                        const std::vector<double>& s, const std::vector<int>& ids,
                                        const std::vector<double>& x, const std::vector<double>& centroids,
                                        const routing& r) {
  const std::size_t tokens = ids.size() / r.top_k;
  std::vector<double> dz = dscores.empty() ? std::vector<double>(tokens * r.experts, 0.0) : dscores;
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto chosen = [&](std::size_t k) { return t * r.experts + std::size_t(ids[t * r.top_k + k]); };
    double z = 1e-20;
    for (std::size_t k = 0; k < r.top_k; ++k) z += s[chosen(k)];
    for (std::size_t j = 0; j < r.top_k; ++j)
      for (std::size_t k = 0; k < r.top_k; ++k) {
        double slope = k == j ? 1.0 : 0.0;
        if (r.normalise) slope = slope / z - s[chosen(k)] / (z * z);
        dz[chosen(j)] += r.scale * slope * dgates[t * r.top_k + k];
      }
  }
  for (std::size_t i = 0; i < dz.size(); ++i) dz[i] *= s[i] * (1 - s[i]);

  std::vector<double> dx(tokens * r.hidden, 0.0), dcentroids(r.experts * r.hidden, 0.0);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t e = 0; e < r.experts; ++e)
      for (std::size_t i = 0; i < r.hidden; ++i) {
        dx[t * r.hidden + i] += dz[t * r.experts + e] * centroids[e * r.hidden + i];
        dcentroids[e * r.hidden + i] += dz[t * r.experts + e] * x[t * r.hidden + i];
      }
  return {dz, dx, dcentroids};
}

}  // namespace oracle
