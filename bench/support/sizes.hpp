// SPDX-License-Identifier: MIT
// The sizes benches run at: the real model's, and those of `mini`, which trains on a desktop.
#pragma once

#include <dsv3/base/index.hpp>

namespace support {

using dsv3::index_t;

/// One model's extents; `tokens` is what a bench gives an operation at once (sequences × length).
struct model_sizes {
  const char* name;
  index_t tokens;
  index_t hidden, inner, vocab;
  index_t heads, qk_nope, qk_rope, v_dim, q_rank, kv_rank;
  index_t experts, top_k, groups, top_groups, expert_inner;
  index_t sequences;  // among which the tokens are split evenly
};

inline constexpr model_sizes deepseek_v3 = {.name = "v3",
                                            .tokens = 4096,
                                            .hidden = 7168,
                                            .inner = 18432,
                                            .vocab = 129280,
                                            .heads = 128,
                                            .qk_nope = 128,
                                            .qk_rope = 64,
                                            .v_dim = 128,
                                            .q_rank = 1536,
                                            .kv_rank = 512,
                                            .experts = 256,
                                            .top_k = 8,
                                            .groups = 8,
                                            .top_groups = 4,
                                            .expert_inner = 2048,
                                            .sequences = 1};

inline constexpr model_sizes mini = {.name = "mini",
                                     .tokens = 2048,
                                     .hidden = 512,
                                     .inner = 1536,
                                     .vocab = 4096,
                                     .heads = 8,
                                     .qk_nope = 64,
                                     .qk_rope = 32,
                                     .v_dim = 64,
                                     .q_rank = 256,
                                     .kv_rank = 128,
                                     .experts = 64,
                                     .top_k = 8,
                                     .groups = 8,
                                     .top_groups = 4,
                                     .expert_inner = 256,
                                     .sequences = 4};

}  // namespace support
