// SPDX-License-Identifier: MIT
// The linear layer's three products by their definition.
#pragma once

#include <cstddef>
#include <vector>

namespace oracle {

/// Extents of a linear layer: x [tokens, in], w [out, in], y [tokens, out].
struct linear_extents {
  std::size_t tokens, in, out;
};

/// y[t, o] = Σ_i x[t, i] w[o, i]
inline std::vector<double> gemm(const linear_extents& e, const std::vector<double>& x,
                                const std::vector<double>& w) {
  std::vector<double> y(e.tokens * e.out);
  for (std::size_t t = 0; t < e.tokens; ++t)
    for (std::size_t o = 0; o < e.out; ++o)
      for (std::size_t i = 0; i < e.in; ++i) y[t * e.out + o] += x[t * e.in + i] * w[o * e.in + i];
  return y;
}

/// dx[t, i] = Σ_o dy[t, o] w[o, i]
inline std::vector<double> gemm_data(const linear_extents& e, const std::vector<double>& dy,
                                     const std::vector<double>& w) {
  std::vector<double> dx(e.tokens * e.in);
  for (std::size_t t = 0; t < e.tokens; ++t)
    for (std::size_t o = 0; o < e.out; ++o)
      for (std::size_t i = 0; i < e.in; ++i) dx[t * e.in + i] += dy[t * e.out + o] * w[o * e.in + i];
  return dx;
}

/// dw[o, i] = Σ_t dy[t, o] x[t, i]
inline std::vector<double> gemm_weights(const linear_extents& e, const std::vector<double>& dy,
                                        const std::vector<double>& x) {
  std::vector<double> dw(e.out * e.in);
  for (std::size_t t = 0; t < e.tokens; ++t)
    for (std::size_t o = 0; o < e.out; ++o)
      for (std::size_t i = 0; i < e.in; ++i) dw[o * e.in + i] += dy[t * e.out + o] * x[t * e.in + i];
  return dw;
}

}  // namespace oracle
