// SPDX-License-Identifier: MIT
// When every instruction of a schedule runs, given how long each takes.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/train/pipeline/counts.hpp>
#include <dsv3/train/pipeline/verify.hpp>
#include <dsv3/train/pipeline/walk.hpp>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace dsv3::inline DSV3_ABI::pipeline {

enum class transfer_mode {
  posted,   // messages travel while ranks compute; computing waits for its input
  blocking  // both ranks stand until a message is across, one message after the other
};

struct time_span {
  double begin = 0, end = 0;
};

struct simulation {
  double makespan = 0;
  std::vector<double> busy;  // by rank: time spent computing
  std::vector<std::vector<time_span>>
      spans;  // by rank and place in its list; messages: from sent to received

  double bubble(int rank) const { return makespan - busy[static_cast<std::size_t>(rank)]; }
  /// Of all ranks together, the part of the makespan spent computing.
  double busy_share() const {
    double sum = 0;
    for (const double each : busy) sum += each;
    return makespan > 0 ? sum / (makespan * static_cast<double>(busy.size())) : 0;
  }
};

inline double duration_of(const instruction& i, const durations& d) {
  switch (i.what) {
    case act::forward:
      return d.forward;
    case act::backward:
      return d.backward;
    case act::input_gradient:
      return d.input_gradient;
    case act::weight_gradient:
      return d.weight_gradient;
    case act::overlapped:
      return d.overlapped;
    default:
      return d.transfer;
  }
}

/// Runs a good schedule on paper; of one that is not, raises what `verify` says. Messages take `transfer`
/// whatever else travels at the time.
inline simulation simulate(const schedule& s, const durations& d = {},
                           transfer_mode mode = transfer_mode::posted) {
  require(verify(s));
  simulation result{.makespan = 0, .busy = std::vector<double>(s.ranks.size(), 0), .spans = {}};
  for (const std::vector<instruction>& list : s.ranks) result.spans.emplace_back(list.size());
  std::vector<double> free(s.ranks.size(), 0);
  // By rank, micro-batch and chunk: when the input of a forward, the gradient for a backward is there.
  const std::size_t units = static_cast<std::size_t>(s.micro_batches * s.places.chunks());
  std::vector<std::vector<double>> input(s.ranks.size(), std::vector<double>(units, 0)), gradient = input;
  const auto slot = [&](const unit& u) {
    return static_cast<std::size_t>(u.micro_batch * s.places.chunks() + u.chunk);
  };
  walk(
      s,
      [&](int rank, std::size_t n) {
        const std::size_t r = static_cast<std::size_t>(rank);
        const instruction& i = s.ranks[r][n];
        double begin = free[r];
        if (goes_forward(i)) begin = std::max(begin, input[r][slot(i.of)]);
        if (goes_backward(i)) begin = std::max(begin, gradient[r][slot(backward_unit(i))]);
        const double taken = duration_of(i, d);
        result.spans[r][n] = time_span{begin, begin + taken};
        free[r] = begin + taken;
        result.busy[r] += taken;
      },
      [&](int from, std::size_t n, int to, std::size_t k) {
        const std::size_t a = static_cast<std::size_t>(from), b = static_cast<std::size_t>(to);
        const double begin = mode == transfer_mode::blocking ? std::max(free[a], free[b]) : free[a];
        const double end = begin + d.transfer;
        if (mode == transfer_mode::blocking) free[a] = free[b] = end;
        const instruction& i = s.ranks[b][k];
        (i.carries == payload::activation ? input : gradient)[b][slot(i.of)] = end;
        result.spans[a][n] = result.spans[b][k] = time_span{begin, end};
      });
  for (const std::vector<time_span>& list : result.spans)
    for (const time_span& span : list) result.makespan = std::max(result.makespan, span.end);
  return result;
}

}  // namespace dsv3::inline DSV3_ABI::pipeline
