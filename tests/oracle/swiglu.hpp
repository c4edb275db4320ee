// SPDX-License-Identifier: MIT
// SwiGLU in plain double precision, one number at a time.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace oracle {

inline double silu(double g) { return g / (1 + std::exp(-g)); }
inline double silu_slope(double g) {
  const double sigma = 1 / (1 + std::exp(-g));
  return sigma + g * sigma * (1 - sigma);
}

/// gate_up [rows, 2 * inner], w [rows]
inline std::vector<double> swiglu(const std::vector<double>& gate_up, const std::vector<double>& w,
                                  std::size_t inner) {
  std::vector<double> y;
  for (std::size_t r = 0; r < w.size(); ++r)
    for (std::size_t i = 0; i < inner; ++i)
      y.push_back(w[r] * silu(gate_up[r * 2 * inner + i]) * gate_up[r * 2 * inner + inner + i]);
  return y;
}

struct swiglu_gradients {
  std::vector<double> d_gate_up, d_w;
};

inline swiglu_gradients swiglu_backward(const std::vector<double>& dy, const std::vector<double>& gate_up,
                                        const std::vector<double>& w, std::size_t inner) {
  swiglu_gradients result{std::vector<double>(gate_up.size()), std::vector<double>(w.size(), 0.0)};
  for (std::size_t r = 0; r < w.size(); ++r)
    for (std::size_t i = 0; i < inner; ++i) {
      const std::size_t gate = r * 2 * inner + i, up = gate + inner;
      result.d_gate_up[gate] = w[r] * dy[r * inner + i] * gate_up[up] * silu_slope(gate_up[gate]);
      result.d_gate_up[up] = w[r] * dy[r * inner + i] * silu(gate_up[gate]);
      result.d_w[r] += dy[r * inner + i] * silu(gate_up[gate]) * gate_up[up];
    }
  return result;
}

}  // namespace oracle
