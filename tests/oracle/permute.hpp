// SPDX-License-Identifier: MIT
// Permutation by looking: the row of a slot is found by counting the slots that come before it.
#pragma once

#include <cstddef>
#include <vector>

namespace oracle {

struct permutation_layout {
  std::size_t tokens, top_k, experts, alignment;
  bool masked;
};

struct permutation_plan {
  std::vector<double> offsets, counts, row_of, token_of;  // double, to be compared as everything else
};

inline permutation_plan permute_plan(const std::vector<int>& ids, const permutation_layout& l,
                                     std::size_t capacity) {
  permutation_plan plan;
  plan.counts.assign(l.experts, 0);
  for (const int e : ids) plan.counts[std::size_t(e)] += 1;
  double first = 0;
  for (std::size_t e = 0; e < l.experts; ++e) {
    plan.offsets.push_back(first);
    double room = l.masked ? double(l.tokens) : 0;
    while (!l.masked && room < plan.counts[e]) room += double(l.alignment);
    first += room;
  }
  plan.offsets.push_back(first);
  plan.token_of.assign(capacity, -1);
  for (std::size_t slot = 0; slot < ids.size(); ++slot) {
    double row = plan.offsets[std::size_t(ids[slot])];
    for (std::size_t before = 0; before < slot; ++before) row += ids[before] == ids[slot];
    plan.row_of.push_back(row);
    plan.token_of[std::size_t(row)] = double(slot / l.top_k);
  }
  return plan;
}

}  // namespace oracle
