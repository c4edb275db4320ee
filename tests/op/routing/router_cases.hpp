// SPDX-License-Identifier: MIT
// Router configurations that tests go through.
#pragma once

#include <dsv3/exec/random.hpp>
#include <dsv3/op/routing/router.hpp>

namespace router_cases {

struct problem {
  dsv3::index_t tokens;
  dsv3::router_config config;
};

using dsv3::gate_norm;

/// Every feature once: one expert, one group, kept = all groups, top_k below and above the kept groups, no
/// norm.
inline constexpr problem named[] = {
    {1, {.hidden = 1, .experts = 1, .top_k = 1}},
    {0, {.hidden = 8, .experts = 4, .top_k = 2}},
    {7, {.hidden = 33, .experts = 5, .top_k = 3, .scale = 2.5}},
    {9, {.hidden = 24, .experts = 8, .top_k = 8, .groups = 2, .kept_groups = 2}},
    {65, {.hidden = 48, .experts = 16, .top_k = 4, .groups = 4, .kept_groups = 2, .scale = 2.5}},
    {130, {.hidden = 40, .experts = 32, .top_k = 8, .groups = 8, .kept_groups = 4, .scale = 2.5}},
    {12,
     {.hidden = 7, .experts = 12, .top_k = 2, .groups = 4, .kept_groups = 3, .normalise = gate_norm::none}},
    {5, {.hidden = 130, .experts = 64, .top_k = 6, .groups = 1, .kept_groups = 1, .scale = 0.5}},
    {300, {.hidden = 257, .experts = 24, .top_k = 3, .groups = 3, .kept_groups = 1, .scale = 16}},
};

/// The n-th of many small configurations: 1 to 64 experts in 1 to 8 groups, everything the check allows.
inline problem random(std::uint64_t n) {
  const dsv3::random_stream draw(20260102, n);
  std::uint64_t counter = 0;
  const auto between = [&](dsv3::index_t low, dsv3::index_t high) {
    return low +
           static_cast<dsv3::index_t>(draw.below(static_cast<std::uint64_t>(high - low + 1), counter++));
  };
  problem p{};
  p.tokens = between(1, 12);
  p.config.hidden = between(1, 20);
  p.config.groups = between(1, 8);
  const dsv3::index_t members = between(1, 8);
  p.config.experts = p.config.groups * members;
  p.config.kept_groups = between(1, p.config.groups);
  p.config.top_k = between(1, p.config.kept_groups * members);
  p.config.normalise = between(0, 3) == 0 ? gate_norm::none : gate_norm::sum_to_one;
  p.config.scale = 2.5;
  return p;
}

}  // namespace router_cases
