// SPDX-License-Identifier: MIT
// A pipeline schedule as data: for every rank the list of what it does, in order.
#pragma once

#include <dsv3/train/pipeline/placement.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace dsv3::inline DSV3_ABI::pipeline {

enum class act : std::uint8_t {
  forward,
  backward,         // both halves at once
  input_gradient,   // the half that the rank before waits for; the other half is owed from then on
  weight_gradient,  // the half that nobody waits for
  overlapped,       // forward of one micro-batch and backward of another, each hiding the other's exchanges
  send,
  receive
};

/// What goes from rank to rank: the output of a stage, and the gradient of its input.
enum class payload : std::uint8_t { activation, gradient };

/// A micro-batch in one of a rank's chunks.
struct unit {
  int micro_batch = 0, chunk = 0;
  friend bool operator==(const unit&, const unit&) = default;
};

/// One entry of a rank's list. Messages are named for the unit of the rank that acts: the sender's unit whose
/// output it is, the receiver's unit whose input it becomes.
struct instruction {
  act what = act::forward;
  unit of = {};                           // of `overlapped`: the one that goes forward
  unit back = {};                         // of `overlapped` alone: the one that goes backward
  payload carries = payload::activation;  // of messages alone
  int peer = 0;                           // of messages alone: the other rank
  friend bool operator==(const instruction&, const instruction&) = default;
};

inline bool is_message(const instruction& i) { return i.what == act::send || i.what == act::receive; }
inline bool goes_forward(const instruction& i) { return i.what == act::forward || i.what == act::overlapped; }
/// Whether it makes the gradient that the stage before needs.
inline bool goes_backward(const instruction& i) {
  return i.what == act::backward || i.what == act::input_gradient || i.what == act::overlapped;
}
/// The unit whose gradient it makes.
inline unit backward_unit(const instruction& i) { return i.what == act::overlapped ? i.back : i.of; }

/// Micro-batches 0, 1, ... are shared out to the routes in equal runs: of two routes, the first has the first
/// half.
struct schedule {
  std::string name = {};
  int micro_batches = 0;
  placement places = {};
  std::vector<std::vector<instruction>> ranks = {};

  int micro_batches_per_route() const { return micro_batches / places.routes(); }
  int route_of(int micro_batch) const { return micro_batch / micro_batches_per_route(); }
};

/// "forward of micro-batch 4 in chunk 0", as sentences name it.
inline std::string to_string(const instruction& i) {
  const auto named = [](const unit& u) {
    return "micro-batch " + std::to_string(u.micro_batch) + " in chunk " + std::to_string(u.chunk);
  };
  const std::string carried = i.carries == payload::activation ? "activation of " : "gradient of ";
  switch (i.what) {
    case act::forward:
      return "forward of " + named(i.of);
    case act::backward:
      return "backward of " + named(i.of);
    case act::input_gradient:
      return "input gradient of " + named(i.of);
    case act::weight_gradient:
      return "weight gradient of " + named(i.of);
    case act::overlapped:
      return "forward of " + named(i.of) + " with backward of " + named(i.back);
    case act::send:
      return "sending the " + carried + named(i.of) + " to rank " + std::to_string(i.peer);
    default:
      return "receiving the " + carried + named(i.of) + " from rank " + std::to_string(i.peer);
  }
}

/// Whether every instruction names ranks, chunks and micro-batches there are, on the routes they take.
inline status check_names(const schedule& s) {
  if (s.places.routes() == 0 || s.micro_batches < 1 || s.micro_batches % s.places.routes() != 0)
    return status{s.name + ": " + std::to_string(s.micro_batches) + " micro-batches for " +
                  std::to_string(s.places.routes()) + " routes, expected as many for each, at least one"};
  if (s.ranks.size() != static_cast<std::size_t>(s.places.ranks()))
    return status{s.name + ": " + std::to_string(s.ranks.size()) + " lists for " +
                  std::to_string(s.places.ranks()) + " ranks"};
  const auto known = [&](int rank, const unit& u) {
    return u.chunk >= 0 && u.chunk < s.places.chunks() && u.micro_batch >= 0 &&
           u.micro_batch < s.micro_batches && s.places.route_of({rank, u.chunk}) == s.route_of(u.micro_batch);
  };
  for (int rank = 0; rank < s.places.ranks(); ++rank)
    for (const instruction& i : s.ranks[static_cast<std::size_t>(rank)]) {
      if (!known(rank, i.of) || (i.what == act::overlapped && !known(rank, i.back)))
        return status{s.name + ": rank " + std::to_string(rank) + ", " + to_string(i) +
                      ": this micro-batch never comes there"};
      if (is_message(i) && (i.peer < 0 || i.peer >= s.places.ranks() || i.peer == rank))
        return status{s.name + ": rank " + std::to_string(rank) + ", " + to_string(i) +
                      ": expected another one of " + std::to_string(s.places.ranks()) + " ranks"};
    }
  return {};
}

/// A rank's computing in letters and chunks, "F0 F1 I1 W F0|B1 B0": without messages and micro-batches, which
/// come in order.
inline std::string notation(const std::vector<instruction>& list) {
  std::string text;
  for (const instruction& i : list) {
    if (is_message(i)) continue;
    if (!text.empty()) text += ' ';
    const std::string chunk = std::to_string(i.of.chunk);
    if (i.what == act::weight_gradient)
      text += "W";
    else if (i.what == act::overlapped)
      text += "F" + chunk + "|B" + std::to_string(i.back.chunk);
    else
      text += (i.what == act::forward ? "F" : i.what == act::backward ? "B" : "I") + chunk;
  }
  return text;
}

}  // namespace dsv3::inline DSV3_ABI::pipeline
