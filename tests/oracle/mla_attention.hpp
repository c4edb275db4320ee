// SPDX-License-Identifier: MIT
// Causal attention over packed sequences by the direct formula: every score, every probability, in double.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace oracle {

struct attention {
  std::vector<int> lengths;  // of the sequences
  int heads = 1, nope = 1, rope = 1, v_dim = 1;
  double scale = 1;
  // q [tokens, heads, nope + rope], kv [tokens, heads, nope + v_dim], k_rope [tokens, rope]
  std::vector<double> q, kv, k_rope;

  struct outcome {
    std::vector<double> o, lse;  // [tokens, heads, v_dim], [heads, tokens]
  };
  struct slopes {
    std::vector<double> dq, dkv, dk_rope;
  };

  int tokens() const {
    int sum = 0;
    for (int length : lengths) sum += length;
    return sum;
  }

  double key(int j, int h, int e) const {
    return e < nope ? kv[at(j, h, e, nope + v_dim)]
                    : k_rope[std::size_t(j) * std::size_t(rope) + std::size_t(e - nope)];
  }
  double value(int j, int h, int e) const { return kv[at(j, h, nope + e, nope + v_dim)]; }

  // The probabilities of one query over the keys `first`..t, and their log-sum-exp.
  std::vector<double> probabilities(int first, int t, int h, double& lse) const {
    std::vector<double> p;
    double highest = -INFINITY, sum = 0;
    for (int j = first; j <= t; ++j) {
      double score = 0;
      for (int e = 0; e < nope + rope; ++e) score += q[at(t, h, e, nope + rope)] * key(j, h, e);
      p.push_back(scale * score);
      highest = std::fmax(highest, scale * score);
    }
    for (double& score : p) sum += score = std::exp(score - highest);
    for (double& share : p) share /= sum;
    lse = highest + std::log(sum);
    return p;
  }

  outcome forward() const {
    outcome result{std::vector<double>(elements(v_dim)), std::vector<double>(elements(1))};
    each_query([&](int first, int t, int h) {
      const auto p =
          probabilities(first, t, h, result.lse[std::size_t(h) * std::size_t(tokens()) + std::size_t(t)]);
      for (int e = 0; e < v_dim; ++e)
        for (int j = first; j <= t; ++j)
          result.o[at(t, h, e, v_dim)] += p[std::size_t(j - first)] * value(j, h, e);
    });
    return result;
  }

  // With o as forward gave it out, rounded as it may be: d_o · o stands for the mean of d_o · v.
  slopes backward(const std::vector<double>& d_o, const std::vector<double>& o) const {
    slopes result{std::vector<double>(q.size()), std::vector<double>(kv.size()),
                  std::vector<double>(k_rope.size())};
    each_query([&](int first, int t, int h) {
      double lse;
      const auto p = probabilities(first, t, h, lse);
      double mean = 0;
      for (int e = 0; e < v_dim; ++e) mean += d_o[at(t, h, e, v_dim)] * o[at(t, h, e, v_dim)];
      for (int j = first; j <= t; ++j) {
        double dp = 0;
        for (int e = 0; e < v_dim; ++e) dp += d_o[at(t, h, e, v_dim)] * value(j, h, e);
        const double share = p[std::size_t(j - first)], ds = scale * share * (dp - mean);
        for (int e = 0; e < nope + rope; ++e) {
          result.dq[at(t, h, e, nope + rope)] += ds * key(j, h, e);
          const double dk = ds * q[at(t, h, e, nope + rope)];
          if (e < nope)
            result.dkv[at(j, h, e, nope + v_dim)] += dk;
          else
            result.dk_rope[std::size_t(j) * std::size_t(rope) + std::size_t(e - nope)] += dk;
        }
        for (int e = 0; e < v_dim; ++e)
          result.dkv[at(j, h, nope + e, nope + v_dim)] += share * d_o[at(t, h, e, v_dim)];
      }
    });
    return result;
  }

 private:
  std::size_t at(int t, int h, int e, int width) const {
    return (std::size_t(t) * std::size_t(heads) + std::size_t(h)) * std::size_t(width) + std::size_t(e);
  }
  std::size_t elements(int width) const {
    return std::size_t(tokens()) * std::size_t(heads) * std::size_t(width);
  }

  template <class Visit>
  void each_query(Visit&& visit) const {
    int first = 0;
    for (int length : lengths) {
      for (int t = first; t < first + length; ++t)
        for (int h = 0; h < heads; ++h) visit(first, t, h);
      first += length;
    }
  }
};

}  // namespace oracle
