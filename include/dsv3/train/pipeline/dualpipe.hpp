// SPDX-License-Identifier: MIT
// DualPipe (report, section 3.2.1): micro-batches enter at both ends, and where two meet they hide each
// other's exchanges.
#pragma once

#include <dsv3/train/pipeline/counts.hpp>
#include <dsv3/train/pipeline/eight_steps.hpp>
#include <dsv3/train/pipeline/transfers.hpp>

#include <algorithm>
#include <string>
#include <utility>

namespace dsv3::inline DSV3_ABI::pipeline {

inline status check_dualpipe(int ranks, int micro_batches) {
  if (const status counts = detail::check_counts("dualpipe", ranks, micro_batches); !counts) return counts;
  if (ranks % 2 != 0) return status{"dualpipe: " + std::to_string(ranks) + " ranks, expected an even number"};
  if (micro_batches % 2 != 0)
    return status{"dualpipe: " + std::to_string(micro_batches) + " micro-batches, expected an even number"};
  if (micro_batches < 2 * ranks)
    return status{"dualpipe: " + std::to_string(micro_batches) + " micro-batches for " +
                  std::to_string(ranks) + " ranks, expected at least " + std::to_string(2 * ranks)};
  return {};
}

/// Rank r holds stage r as chunk 0 and stage ranks - 1 - r as chunk 1; the gradients of both copies of a
/// stage are summed after the step. The first half of the micro-batches enters at rank 0 and leaves, with its
/// loss, at the last rank; the second half the other way.
inline schedule dualpipe(int ranks, int micro_batches) {
  require(check_dualpipe(ranks, micro_batches));
  schedule s{.name = "dualpipe", .micro_batches = micro_batches, .places = placement::both_ways(ranks)};
  for (int rank = 0; rank < ranks; ++rank) {
    list_writer list{s, rank};
    const int upper = rank >= ranks / 2 ? 1 : 0;  // whose nearer end is the last rank
    eight_steps{.half = ranks / 2,
                .depth = std::min(rank, ranks - 1 - rank),
                .micro_batches = micro_batches / 2,
                .phase0 = upper,
                .phase1 = 1 - upper}
        .write(list);
    s.ranks.push_back(list.take());
  }
  return with_transfers(std::move(s));
}

/// Its bubble is (ranks / 2 − 1)(F&B + B − 3 W).
inline published_cost dualpipe_cost(int ranks, const durations& d) {
  return {.bubble = (ranks / 2 - 1) * (d.overlapped + d.backward - 3 * d.weight_gradient),
          .model_copies = 2,
          .activations = ranks + 1};
}

}  // namespace dsv3::inline DSV3_ABI::pipeline
