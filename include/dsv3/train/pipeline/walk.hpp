// SPDX-License-Identifier: MIT
// Goes through all lists of a schedule at once, as ranks would whose sends return only when they are
// received.
#pragma once

#include <dsv3/train/pipeline/schedule.hpp>

#include <cstddef>
#include <vector>

namespace dsv3::inline DSV3_ABI::pipeline {

/// compute(rank, i) for each computing, meet(from, i, to, j) for each message where send and receive stand.
/// Returns how far every rank comes: to the end of its list, or to a message whose peer never comes. Peers
/// must be ranks there are.
template <class Compute, class Meet>
std::vector<std::size_t> walk(const schedule& s, Compute&& compute, Meet&& meet) {
  std::vector<std::size_t> at(s.ranks.size(), 0);
  std::vector<int> moving;
  for (int rank = s.places.ranks(); rank-- > 0;) moving.push_back(rank);
  const auto current = [&](int rank) -> const instruction* {
    const std::vector<instruction>& list = s.ranks[static_cast<std::size_t>(rank)];
    const std::size_t i = at[static_cast<std::size_t>(rank)];
    return i < list.size() ? &list[i] : nullptr;
  };
  while (!moving.empty()) {
    const int rank = moving.back();
    const std::size_t r = static_cast<std::size_t>(rank);
    const instruction* here = current(rank);
    while (here && !is_message(*here)) {
      compute(rank, at[r]++);
      here = current(rank);
    }
    const instruction* there = here ? current(here->peer) : nullptr;
    if (!there || !is_message(*there) || there->peer != rank || there->what == here->what) {
      moving.pop_back();
      continue;
    }
    const int peer = here->peer;
    const std::size_t p = static_cast<std::size_t>(peer);
    if (here->what == act::send)
      meet(rank, at[r], peer, at[p]);
    else
      meet(peer, at[p], rank, at[r]);
    ++at[r], ++at[p];
    moving.push_back(peer);
  }
  return at;
}

}  // namespace dsv3::inline DSV3_ABI::pipeline
