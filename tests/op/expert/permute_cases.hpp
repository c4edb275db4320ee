// SPDX-License-Identifier: MIT
// Batches to permute: shapes, layouts and ways to choose.
#pragma once

#include <dsv3/exec/random.hpp>
#include <dsv3/op/expert/permute.hpp>

#include <cstdint>
#include <vector>

namespace permute_cases {

using dsv3::index_t;

enum class choice { spread, one_expert, few_experts };

struct problem {
  dsv3::permutation_config config;
  index_t width;
  choice how;
};

inline constexpr problem named[] = {
    {{.tokens = 1, .top_k = 1, .experts = 1}, 1, choice::spread},
    {{.tokens = 0, .top_k = 2, .experts = 3, .alignment = 4}, 5, choice::spread},
    {{.tokens = 0, .top_k = 2, .experts = 3, .masked = true}, 5, choice::spread},
    {{.tokens = 9, .top_k = 2, .experts = 5}, 7, choice::spread},
    {{.tokens = 9, .top_k = 2, .experts = 5, .alignment = 8}, 64, choice::spread},
    {{.tokens = 9, .top_k = 2, .experts = 5, .masked = true}, 65, choice::spread},
    {{.tokens = 12, .top_k = 1, .experts = 6, .alignment = 16}, 33, choice::one_expert},
    {{.tokens = 12, .top_k = 1, .experts = 6, .masked = true}, 33, choice::one_expert},
    {{.tokens = 50, .top_k = 4, .experts = 16, .alignment = 3}, 130, choice::few_experts},
    {{.tokens = 50, .top_k = 4, .experts = 16, .masked = true}, 130, choice::few_experts},
    {{.tokens = 300, .top_k = 8, .experts = 64, .alignment = 128}, 20, choice::spread},
};

/// Expert of each (token, slot); the experts of a token are distinct.
inline std::vector<int> choose(const problem& p) {
  const dsv3::random_stream random(20260103, static_cast<std::uint64_t>(p.config.tokens));
  std::vector<int> ids;
  for (index_t t = 0; t < p.config.tokens; ++t) {
    const index_t among = p.how == choice::one_expert    ? 1
                          : p.how == choice::few_experts ? p.config.top_k + 1
                                                         : p.config.experts;
    const auto first =
        static_cast<index_t>(random.below(static_cast<std::uint64_t>(among), static_cast<std::uint64_t>(t)));
    const index_t from = p.how == choice::one_expert ? p.config.experts / 2 : 0;
    for (index_t k = 0; k < p.config.top_k; ++k) ids.push_back(static_cast<int>(from + (first + k) % among));
  }
  return ids;
}

}  // namespace permute_cases
