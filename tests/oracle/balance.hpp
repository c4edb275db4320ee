// SPDX-License-Identifier: MIT
// Balancing in plain double precision, written as in the report (2.1.2, eq. 17-20).
#pragma once

#include <cstddef>
#include <vector>

namespace oracle {

struct sequence {
  std::size_t begin, end;  // tokens
};

/// indicated[t * experts + e] = 1 where e is among the top_k largest scores of t, equal ones by index.
inline std::vector<double> indicate_largest(const std::vector<double>& s, std::size_t experts,
                                            std::size_t top_k) {
  std::vector<double> indicated(s.size());
  for (std::size_t t = 0; t < s.size() / experts; ++t)
    for (std::size_t e = 0; e < experts; ++e) {
      std::size_t better = 0;
      for (std::size_t other = 0; other < experts; ++other)
        better += s[t * experts + other] > s[t * experts + e] ||
                  (s[t * experts + other] == s[t * experts + e] && other < e);
      indicated[t * experts + e] = better < top_k ? 1 : 0;
    }
  return indicated;
}

inline std::vector<double> indicate_chosen(const std::vector<int>& ids, std::size_t experts,
                                           std::size_t top_k) {
  std::vector<double> indicated(ids.size() / top_k * experts, 0.0);
  for (std::size_t i = 0; i < ids.size(); ++i) indicated[i / top_k * experts + std::size_t(ids[i])] = 1;
  return indicated;
}

/// f [sequences, experts]
inline std::vector<double> balance_fraction(const std::vector<double>& indicated,
                                            const std::vector<sequence>& sequences, std::size_t experts,
                                            std::size_t top_k) {
  std::vector<double> f;
  for (const sequence& s : sequences)
    for (std::size_t e = 0; e < experts; ++e) {
      double count = 0;
      for (std::size_t t = s.begin; t < s.end; ++t) count += indicated[t * experts + e];
      const double length = double(s.end - s.begin);
      f.push_back(length == 0 ? 0 : double(experts) / (double(top_k) * length) * count);
    }
  return f;
}

inline double balance_loss(const std::vector<double>& s, const std::vector<double>& f,
                           const std::vector<sequence>& sequences, std::size_t experts, double coefficient) {
  double total = 0;
  for (std::size_t q = 0; q < sequences.size(); ++q)
    for (std::size_t e = 0; e < experts; ++e) {
      double p = 0;
      for (std::size_t t = sequences[q].begin; t < sequences[q].end; ++t) {
        double sum = 0;
        for (std::size_t other = 0; other < experts; ++other) sum += s[t * experts + other];
        p += s[t * experts + e] / sum / double(sequences[q].end - sequences[q].begin);
      }
      total += coefficient * f[q * experts + e] * p / double(sequences.size());
    }
  return total;
}

/// ds[j] = coefficient / (sequences T) Σ_e f[e] ∂s'[e]/∂s[j]  with ∂s'[e]/∂s[j] = [e = j] / Σs − s[e] /
/// (Σs)².
inline std::vector<double> balance_backward(const std::vector<double>& s, const std::vector<double>& f,
                                            const std::vector<sequence>& sequences, std::size_t experts,
                                            double coefficient) {
  std::vector<double> ds(s.size(), 0.0);
  for (std::size_t q = 0; q < sequences.size(); ++q)
    for (std::size_t t = sequences[q].begin; t < sequences[q].end; ++t) {
      double sum = 0;
      for (std::size_t e = 0; e < experts; ++e) sum += s[t * experts + e];
      for (std::size_t j = 0; j < experts; ++j)
        for (std::size_t e = 0; e < experts; ++e)
          ds[t * experts + j] += coefficient / double(sequences.size()) /
                                 double(sequences[q].end - sequences[q].begin) * f[q * experts + e] *
                                 ((e == j ? 1 / sum : 0) - s[t * experts + e] / (sum * sum));
    }
  return ds;
}

}  // namespace oracle
