// SPDX-License-Identifier: MIT
// The distribution of a token in plain doubles, and the filters on whole numbers by sorting.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace oracle {

struct sampling {
  double temperature = 0;
  std::size_t top_k = 0;
  double top_p = 1, penalty = 1;
};

inline std::vector<double> token_distribution(std::vector<double> logits, const sampling& how,
                                              const std::vector<int>& seen) {
  std::vector<char> marked(logits.size(), 0);
  for (const int id : seen) marked[std::size_t(id)] = 1;
  for (std::size_t v = 0; v < logits.size(); ++v) {
    if (std::isnan(logits[v])) logits[v] = -INFINITY;
    if (marked[v]) logits[v] = logits[v] > 0 ? logits[v] / how.penalty : logits[v] * how.penalty;
  }
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(logits.size(), 0.0);
  if (how.temperature == 0) {
    p[order[0]] = 1;
    return p;
  }
  const std::size_t kept = how.top_k == 0 ? order.size() : std::min(how.top_k, order.size());
  double sum = 0, reached = 0, left = 0;
  for (std::size_t i = 0; i < kept; ++i)
    sum += std::exp((logits[order[i]] - logits[order[0]]) / how.temperature);
  for (std::size_t i = 0; i < kept && (i == 0 || how.top_p == 1 || reached < how.top_p); ++i) {
    p[order[i]] = std::exp((logits[order[i]] - logits[order[0]]) / how.temperature) / sum;
    reached += p[order[i]];
  }
  for (const double each : p) left += each;
  for (double& each : p) each /= left;
  return p;
}

/// What top_k and then top_p leave of whole weights, decided in whole numbers.
inline std::vector<std::uint64_t> filter_weights(std::vector<std::uint64_t> weights, std::size_t top_k,
                                                 double top_p) {
  __extension__ typedef unsigned __int128 wide;
  std::vector<std::size_t> order(weights.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
  });
  std::size_t kept = top_k == 0 ? order.size() : std::min(top_k, order.size());
  if (top_p < 1) {
    wide total = 0, reached = 0;
    for (std::size_t i = 0; i < kept; ++i) total += weights[order[i]];
    const wide share = std::uint64_t(std::ldexp(top_p, 64));
    std::size_t i = 0;
    while (i < kept && (i == 0 || (reached << 64) < share * total)) reached += weights[order[i++]];
    kept = i;
  }
  for (std::size_t i = kept; i < order.size(); ++i) weights[order[i]] = 0;
  return weights;
}

}  // namespace oracle
