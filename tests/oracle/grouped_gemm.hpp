// SPDX-License-Identifier: MIT
// One linear layer per expert over its own rows, by definition; rows that belong to nobody stay as they were.
#pragma once

#include <cstddef>
#include <vector>

namespace oracle {

/// Expert e has the rows [offsets[e], offsets[e] + counts[e]); w [experts, out, in].
struct grouped_extents {
  std::size_t in, out;
  std::vector<std::size_t> offsets, counts;
};

/// y[r, o] = Σ_i x[r, i] w[e, o, i] for the rows of every expert e
inline void grouped_gemm(const grouped_extents& g, const std::vector<double>& x, const std::vector<double>& w,
                         std::vector<double>& y) {
  for (std::size_t e = 0; e < g.counts.size(); ++e)
    for (std::size_t r = g.offsets[e]; r < g.offsets[e] + g.counts[e]; ++r)
      for (std::size_t o = 0; o < g.out; ++o) {
        double sum = 0;
        for (std::size_t i = 0; i < g.in; ++i) sum += x[r * g.in + i] * w[(e * g.out + o) * g.in + i];
        y[r * g.out + o] = sum;
      }
}

/// dx[r, i] = Σ_o dy[r, o] w[e, o, i]
inline void grouped_gemm_data(const grouped_extents& g, const std::vector<double>& dy,
                              const std::vector<double>& w, std::vector<double>& dx) {
  for (std::size_t e = 0; e < g.counts.size(); ++e)
    for (std::size_t r = g.offsets[e]; r < g.offsets[e] + g.counts[e]; ++r)
      for (std::size_t i = 0; i < g.in; ++i) {
        double sum = 0;
        for (std::size_t o = 0; o < g.out; ++o) sum += dy[r * g.out + o] * w[(e * g.out + o) * g.in + i];
        dx[r * g.in + i] = sum;
      }
}

/// dw[e, o, i] += Σ_r dy[r, o] x[r, i]
inline void grouped_gemm_weights(const grouped_extents& g, const std::vector<double>& dy,
                                 const std::vector<double>& x, std::vector<double>& dw) {
  for (std::size_t e = 0; e < g.counts.size(); ++e)
    for (std::size_t r = g.offsets[e]; r < g.offsets[e] + g.counts[e]; ++r)
      for (std::size_t o = 0; o < g.out; ++o)
        for (std::size_t i = 0; i < g.in; ++i)
          dw[(e * g.out + o) * g.in + i] += dy[r * g.out + o] * x[r * g.in + i];
}

}  // namespace oracle
