// SPDX-License-Identifier: MIT
// One forward, one backward: as many forwards as it takes to reach the last rank, then in turns.
#pragma once

#include <dsv3/train/pipeline/counts.hpp>
#include <dsv3/train/pipeline/transfers.hpp>
#include <dsv3/train/pipeline/writer.hpp>

#include <algorithm>
#include <utility>

namespace dsv3::inline DSV3_ABI::pipeline {

inline status check_one_f_one_b(int ranks, int micro_batches) {
  return detail::check_counts("1f1b", ranks, micro_batches);
}

inline schedule one_f_one_b(int ranks, int micro_batches) {
  require(check_one_f_one_b(ranks, micro_batches));
  schedule s{.name = "1f1b", .micro_batches = micro_batches, .places = placement::one_way(ranks)};
  for (int rank = 0; rank < ranks; ++rank) {
    list_writer list{s, rank};
    const int ahead = std::min(ranks - 1 - rank, micro_batches);
    for (int i = 0; i < ahead; ++i) list.forward(0);
    while (list.forwards_left(0)) list.forward(0), list.backward(0);
    while (list.backwards_left(0)) list.backward(0);
    s.ranks.push_back(list.take());
  }
  return with_transfers(std::move(s));
}

/// Its bubble is (ranks − 1)(F + B).
inline published_cost one_f_one_b_cost(int ranks, const durations& d) {
  return {.bubble = (ranks - 1) * (d.forward + d.backward), .model_copies = 1, .activations = ranks};
}

}  // namespace dsv3::inline DSV3_ABI::pipeline
