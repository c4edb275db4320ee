// SPDX-License-Identifier: MIT
// The embedding as a product with one-hot rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace oracle {

/// y[t, i] = Σ_v [v = ids[t]] table[v, i]
inline std::vector<double> embedding(const std::vector<std::int32_t>& ids, const std::vector<double>& table,
                                     std::size_t vocab, std::size_t hidden) {
  std::vector<double> y(ids.size() * hidden);
  for (std::size_t t = 0; t < ids.size(); ++t)
    for (std::size_t v = 0; v < vocab; ++v)
      if (ids[t] == static_cast<std::int32_t>(v))
        for (std::size_t i = 0; i < hidden; ++i) y[t * hidden + i] += table[v * hidden + i];
  return y;
}

/// dtable[v, i] = Σ_t [v = ids[t]] dy[t, i]
inline std::vector<double> embedding_gradient(const std::vector<std::int32_t>& ids,
                                              const std::vector<double>& dy, std::size_t vocab,
                                              std::size_t hidden) {
  std::vector<double> dtable(vocab * hidden);
  for (std::size_t v = 0; v < vocab; ++v)
    for (std::size_t t = 0; t < ids.size(); ++t)
      if (ids[t] == static_cast<std::int32_t>(v))
        for (std::size_t i = 0; i < hidden; ++i) dtable[v * hidden + i] += dy[t * hidden + i];
  return dtable;
}

}  // namespace oracle
