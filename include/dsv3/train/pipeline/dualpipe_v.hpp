// SPDX-License-Identifier: MIT
// DualPipeV, DualPipe cut in half: micro-batches go down the ranks and back, and meet those that come after.
#pragma once

#include <dsv3/train/pipeline/counts.hpp>
#include <dsv3/train/pipeline/eight_steps.hpp>
#include <dsv3/train/pipeline/transfers.hpp>

#include <string>
#include <utility>

namespace dsv3::inline DSV3_ABI::pipeline {

inline status check_dualpipe_v(int ranks, int micro_batches) {
  if (const status counts = detail::check_counts("dualpipe_v", ranks, micro_batches); !counts) return counts;
  if (micro_batches < 2 * ranks)
    return status{"dualpipe_v: " + std::to_string(micro_batches) + " micro-batches for " +
                  std::to_string(ranks) + " ranks, expected at least " + std::to_string(2 * ranks)};
  return {};
}

/// Twice as many stages as ranks: rank r holds stage r as chunk 0 and stage 2 ranks - 1 - r as chunk 1, one
/// copy of each. All micro-batches enter and leave, with their loss, at rank 0.
inline schedule dualpipe_v(int ranks, int micro_batches) {
  require(check_dualpipe_v(ranks, micro_batches));
  schedule s{.name = "dualpipe_v", .micro_batches = micro_batches, .places = placement::folded(ranks)};
  for (int rank = 0; rank < ranks; ++rank) {
    list_writer list{s, rank};
    eight_steps{.half = ranks, .depth = rank, .micro_batches = micro_batches}.write(list);
    s.ranks.push_back(list.take());
  }
  return with_transfers(std::move(s));
}

/// Its bubble is (ranks − 1)(F&B + B − 3 W), of durations of one of its 2 ranks stages.
inline published_cost dualpipe_v_cost(int ranks, const durations& d) {
  return {.bubble = (ranks - 1) * (d.overlapped + d.backward - 3 * d.weight_gradient),
          .model_copies = 1,
          .activations = 2 * ranks + 1};
}

}  // namespace dsv3::inline DSV3_ABI::pipeline
