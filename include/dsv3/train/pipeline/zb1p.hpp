// SPDX-License-Identifier: MIT
// Zero bubble with the memory of 1F1B: backward comes in two halves, and the half that nobody waits for fills
// gaps.
#pragma once

#include <dsv3/train/pipeline/counts.hpp>
#include <dsv3/train/pipeline/transfers.hpp>
#include <dsv3/train/pipeline/writer.hpp>

#include <algorithm>
#include <utility>

namespace dsv3::inline DSV3_ABI::pipeline {

inline status check_zb1p(int ranks, int micro_batches) {
  return detail::check_counts("zb1p", ranks, micro_batches);
}

/// As 1F1B, where rank r keeps up to r weight gradients waiting.
inline schedule zb1p(int ranks, int micro_batches) {
  require(check_zb1p(ranks, micro_batches));
  schedule s{.name = "zb1p", .micro_batches = micro_batches, .places = placement::one_way(ranks)};
  for (int rank = 0; rank < ranks; ++rank) {
    list_writer list{s, rank};
    const int ahead = std::min(ranks - 1 - rank, micro_batches);
    for (int i = 0; i < ahead; ++i) list.forward(0);
    while (list.backwards_left(0)) {
      if (list.forwards_left(0)) list.forward(0);
      list.input_gradient(0);
      if (list.owed() > rank) list.weight_gradient();
    }
    while (list.owed() > 0) list.weight_gradient();
    s.ranks.push_back(list.take());
  }
  return with_transfers(std::move(s));
}

/// Its bubble is (ranks − 1)(F + B − 2 W).
inline published_cost zb1p_cost(int ranks, const durations& d) {
  return {.bubble = (ranks - 1) * (d.forward + d.backward - 2 * d.weight_gradient),
          .model_copies = 1,
          .activations = ranks};
}

}  // namespace dsv3::inline DSV3_ABI::pipeline
