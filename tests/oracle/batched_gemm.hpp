// SPDX-License-Identifier: MIT
// One product per head by the direct formula, in double.
#pragma once

#include <cstddef>
#include <vector>

namespace oracle {

/// y[t][h][o] = Σ_i x[t][h][i] w[h][o][i], or w[h][i][o] where `transposed`.
inline std::vector<double> batched_gemm(std::size_t tokens, std::size_t heads, std::size_t in,
                                        std::size_t out, bool transposed, const std::vector<double>& x,
                                        const std::vector<double>& w) {
  std::vector<double> y(tokens * heads * out);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t h = 0; h < heads; ++h)
      for (std::size_t o = 0; o < out; ++o)
        for (std::size_t i = 0; i < in; ++i)
          y[(t * heads + h) * out + o] +=
              x[(t * heads + h) * in + i] * w[h * in * out + (transposed ? i * out + o : o * in + i)];
  return y;
}

}  // namespace oracle
