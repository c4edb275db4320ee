// SPDX-License-Identifier: MIT
// What every schedule asks of the number of ranks and micro-batches, and the durations their costs are told
// in.
#pragma once

#include <dsv3/base/error.hpp>

#include <string>

namespace dsv3::inline DSV3_ABI::pipeline {

/// Seconds, or any unit, of one micro-batch in one stage.
struct durations {
  double forward = 1, input_gradient = 1, weight_gradient = 1;
  double backward = 2;    // both halves
  double overlapped = 3;  // a forward and a backward that hide each other's exchanges
  double transfer = 0;    // of a message between two ranks
};

/// What a schedule costs by its published formula.
struct published_cost {
  double bubble = 0;     // of each rank
  int model_copies = 1;  // stages' parameters on a rank, in stages of the model cut into as many as ranks
  int activations = 0;   // of micro-batches in a chunk, most at a time on any rank
};

namespace detail {

inline constexpr int most_ranks = 1 << 16, most_micro_batches = 1 << 24;

inline status check_counts(const char* name, int ranks, int micro_batches) {
  if (ranks < 1 || ranks > most_ranks)
    return status{std::string(name) + ": " + std::to_string(ranks) + " ranks, expected 1 to " +
                  std::to_string(most_ranks)};
  if (micro_batches < 1 || micro_batches > most_micro_batches)
    return status{std::string(name) + ": " + std::to_string(micro_batches) +
                  " micro-batches, expected 1 to " + std::to_string(most_micro_batches)};
  return {};
}

}  // namespace detail

}  // namespace dsv3::inline DSV3_ABI::pipeline
