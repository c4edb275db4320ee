// SPDX-License-Identifier: MIT
// Absorbed attention by the direct formula, one query and one head at a time, in double.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace oracle {

struct mla_decode {
  std::vector<int> queries, lengths;  // of each sequence: its queries, its rows in the cache
  int heads = 1, rank = 1, rope = 1;
  double scale = 1;
  std::vector<double> q_latent, q_rope;    // [tokens, heads, rank], [tokens, heads, rope]
  std::vector<std::vector<double>> cache;  // of each sequence [length, rank + rope]

  struct outcome {
    std::vector<double> z, lse;  // [tokens, heads, rank], [heads, tokens]
  };

  outcome forward() const {
    std::size_t tokens = 0, t = 0;
    for (int n : queries) tokens += std::size_t(n);
    const auto h = std::size_t(heads), d = std::size_t(rank), e = std::size_t(rope);
    outcome result{std::vector<double>(tokens * h * d), std::vector<double>(h * tokens)};
    for (std::size_t b = 0; b < queries.size(); ++b)
      for (int i = 0; i < queries[b]; ++i, ++t)
        for (std::size_t head = 0; head < h; ++head) {
          const int last = lengths[b] - queries[b] + i;
          std::vector<double> scores;
          double highest = -INFINITY, sum = 0;
          for (int j = 0; j <= last; ++j) {
            const double* row = cache[b].data() + std::size_t(j) * (d + e);
            double score = 0;
            for (std::size_t c = 0; c < d; ++c) score += q_latent[(t * h + head) * d + c] * row[c];
            for (std::size_t c = 0; c < e; ++c) score += q_rope[(t * h + head) * e + c] * row[d + c];
            scores.push_back(scale * score);
            highest = std::fmax(highest, scale * score);
          }
          for (double score : scores) sum += std::exp(score - highest);
          for (std::size_t j = 0; j < scores.size(); ++j)
            for (std::size_t c = 0; c < d; ++c)
              result.z[(t * h + head) * d + c] +=
                  std::exp(scores[j] - highest) / sum * cache[b][j * (d + e) + c];
          result.lse[head * tokens + t] = scores.empty() ? -INFINITY : highest + std::log(sum);
        }
    return result;
  }
};

}  // namespace oracle
