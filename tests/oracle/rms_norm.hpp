// SPDX-License-Identifier: MIT
// RMSNorm by its definition, and its gradient by the full Jacobian.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace oracle {

struct rms_norm_result {
  std::vector<double> s, y, rstd;
};

/// x [tokens, hidden], residual the same or empty, gain [hidden].
inline rms_norm_result rms_norm(const std::vector<double>& x, const std::vector<double>& residual,
                                const std::vector<double>& gain, std::size_t tokens, double epsilon) {
  const std::size_t hidden = gain.size();
  rms_norm_result result{x, std::vector<double>(x.size()), std::vector<double>(tokens)};
  for (std::size_t i = 0; i < residual.size(); ++i) result.s[i] += residual[i];
  for (std::size_t t = 0; t < tokens; ++t) {
    double mean_square = 0;
    for (std::size_t i = 0; i < hidden; ++i)
      mean_square += result.s[t * hidden + i] * result.s[t * hidden + i] / static_cast<double>(hidden);
    result.rstd[t] = std::pow(mean_square + epsilon, -0.5);
    for (std::size_t i = 0; i < hidden; ++i)
      result.y[t * hidden + i] = gain[i] * (result.s[t * hidden + i] * result.rstd[t]);
  }
  return result;
}

struct rms_norm_gradients {
  std::vector<double> dx, dgain;
};

/// ds[j] = Σ_i dy[i] ∂y[i]/∂s[j] + d_residual[j] with ∂y[i]/∂s[j] = gain[i] (r [i = j] − s[i] s[j] r³ /
/// hidden).
inline rms_norm_gradients rms_norm_backward(const std::vector<double>& dy, const std::vector<double>& s,
                                            const std::vector<double>& d_residual,
                                            const std::vector<double>& gain, std::size_t tokens,
                                            double epsilon) {
  const std::size_t hidden = gain.size();
  const std::vector<double> rstd = rms_norm(s, {}, gain, tokens, epsilon).rstd;
  rms_norm_gradients result{std::vector<double>(s.size()), std::vector<double>(hidden)};
  for (std::size_t t = 0; t < tokens; ++t) {
    const double r = rstd[t];
    const double *row = &s[t * hidden], *up = &dy[t * hidden];
    for (std::size_t j = 0; j < hidden; ++j) {
      double sum = d_residual.empty() ? 0 : d_residual[t * hidden + j];
      for (std::size_t i = 0; i < hidden; ++i)
        sum += up[i] * gain[i] *
               ((i == j ? r : 0.0) - row[i] * row[j] * r * r * r / static_cast<double>(hidden));
      result.dx[t * hidden + j] = sum;
      result.dgain[j] += up[j] * row[j] * r;
    }
  }
  return result;
}

}  // namespace oracle
