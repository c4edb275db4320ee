// SPDX-License-Identifier: MIT
// Cross entropy through the probabilities themselves.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace oracle {

struct cross_entropy_result {
  double loss = 0;
  std::vector<double> lse, dlogits;
};

/// logits [tokens, vocab], a target of -1 is ignored; loss = scale Σ -ln p[target].
inline cross_entropy_result cross_entropy(const std::vector<double>& logits, const std::vector<int>& targets,
                                          double scale) {
  const std::size_t tokens = targets.size(), vocab = tokens == 0 ? 0 : logits.size() / tokens;
  cross_entropy_result result{0, std::vector<double>(tokens), std::vector<double>(logits.size())};
  for (std::size_t t = 0; t < tokens; ++t) {
    const double* row = &logits[t * vocab];
    const double shift = *std::max_element(row, row + vocab);
    double total = 0;
    for (std::size_t v = 0; v < vocab; ++v) total += std::exp(row[v] - shift);
    result.lse[t] = std::log(total) + shift;
    if (targets[t] < 0) continue;
    const auto target = static_cast<std::size_t>(targets[t]);
    result.loss -= scale * std::log(std::exp(row[target] - shift) / total);
    for (std::size_t v = 0; v < vocab; ++v)
      result.dlogits[t * vocab + v] = scale * (std::exp(row[v] - shift) / total - (v == target ? 1 : 0));
  }
  return result;
}

}  // namespace oracle
