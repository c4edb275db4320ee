// SPDX-License-Identifier: MIT
// Whether a schedule computes every micro-batch once, in an order that can be run, and what it stores.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/train/pipeline/schedule.hpp>
#include <dsv3/train/pipeline/walk.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI::pipeline {

namespace detail {

/// Follows one rank's list and remembers what became of each unit.
class rank_record {
 public:
  rank_record(const schedule& s, int rank)
      : s_(s), rank_(rank), done_(static_cast<std::size_t>(s.micro_batches * s.places.chunks()), 0) {}

  /// Empty, or what is wrong with the instruction coming now.
  std::string take(const instruction& i) {
    std::string wrong;
    const auto need = [&](bool holds, const std::string& sentence) {
      if (!holds && wrong.empty()) wrong = sentence;
    };
    if (is_message(i)) {
      const bool sends = i.what == act::send, forward = i.carries == payload::activation;
      const bool away = sends == forward;  // to or from the next stage, else the one before
      const location here{rank_, i.of.chunk};
      const bool at_end = away ? s_.places.is_last(here) : s_.places.is_first(here);
      need(!at_end, "its route ends here");
      if (at_end) return wrong;
      const int peer = (away ? s_.places.after(here) : s_.places.before(here)).rank;
      need(peer == i.peer, "expected rank " + std::to_string(peer));
      if (sends) need(has(i.of, forward ? went_forward : went_backward), "not made yet");
      mark(i.of,
           sends ? (forward ? sent_activation : sent_gradient) : (forward ? got_activation : got_gradient),
           need);
      return wrong;
    }
    // Both halves of a pair start from what was there before.
    if (goes_backward(i)) {
      const unit u = backward_unit(i);
      need(has(u, went_forward), "its forward comes later or never");
      need(ready(u, false), "the gradient of its output is not there yet");
      mark(u, went_backward, need);
      if (i.what == act::input_gradient) mark(u, owes_weights, need);
    }
    if (goes_forward(i)) {
      need(ready(i.of, true), "its input is not there yet");
      mark(i.of, went_forward, need);
    }
    if (i.what == act::weight_gradient) {
      need(has(i.of, owes_weights), "its input gradient comes later or never");
      mark(i.of, paid_weights, need);
    }
    return wrong;
  }

  /// Empty, or what is missing at the end of the list.
  std::string missing() const {
    for (int chunk = 0; chunk < s_.places.chunks(); ++chunk)
      for (int m = 0; m < s_.micro_batches; ++m) {
        const location here{rank_, chunk};
        const unit u{m, chunk};
        if (s_.places.route_of(here) != s_.route_of(m)) continue;
        const auto lacks = [&](flag f) { return !has(u, f); };
        const auto crosses = [&](bool away) {
          if (away ? s_.places.is_last(here) : s_.places.is_first(here)) return false;
          return (away ? s_.places.after(here) : s_.places.before(here)).rank != rank_;
        };
        std::string what;
        if (lacks(went_forward))
          what = "runs the forward";
        else if (lacks(went_backward))
          what = "runs the backward";
        else if (has(u, owes_weights) && lacks(paid_weights))
          what = "runs the weight gradient";
        else if (crosses(true) && lacks(sent_activation))
          what = "sends the activation";
        else if (crosses(false) && lacks(sent_gradient))
          what = "sends the gradient";
        if (!what.empty())
          return "rank " + std::to_string(rank_) + " never " + what + " of micro-batch " + std::to_string(m) +
                 " in chunk " + std::to_string(chunk);
      }
    return {};
  }

 private:
  enum flag : std::uint8_t {
    got_activation = 1,
    went_forward = 2,
    sent_activation = 4,
    got_gradient = 8,
    went_backward = 16,
    owes_weights = 32,
    paid_weights = 64,
    sent_gradient = 128
  };

  std::size_t slot(const unit& u) const {
    return static_cast<std::size_t>(u.micro_batch * s_.places.chunks() + u.chunk);
  }
  bool has(const unit& u, flag f) const { return (done_[slot(u)] & f) != 0; }
  template <class Need>
  void mark(const unit& u, flag f, Need&& need) {
    need(!has(u, f), "a second time");
    done_[slot(u)] = static_cast<std::uint8_t>(done_[slot(u)] | f);
  }
  // Whether the input of a unit's forward, or the gradient of its output, is on this rank.
  bool ready(const unit& u, bool forward) const {
    const location here{rank_, u.chunk};
    if (forward ? s_.places.is_first(here) : s_.places.is_last(here)) return true;
    const location from = forward ? s_.places.before(here) : s_.places.after(here);
    if (from.rank == rank_) return has({u.micro_batch, from.chunk}, forward ? went_forward : went_backward);
    return has(u, forward ? got_activation : got_gradient);
  }

  const schedule& s_;
  int rank_;
  std::vector<std::uint8_t> done_;  // flags by micro-batch and chunk
};

/// Whether every rank receives from each other one what that one sends, in the same order.
inline status check_messages(const schedule& s) {
  std::map<std::pair<int, int>, std::vector<std::pair<int, instruction>>> sent, received;  // by from, to
  for (int rank = 0; rank < s.places.ranks(); ++rank)
    for (const instruction& i : s.ranks[static_cast<std::size_t>(rank)]) {
      if (i.what == act::send) sent[{rank, i.peer}].push_back({rank, i});
      if (i.what == act::receive) received[{i.peer, rank}].push_back({rank, i}), sent[{i.peer, rank}];
    }
  const auto said = [](const std::pair<int, instruction>& m) {
    return "rank " + std::to_string(m.first) + ", " + to_string(m.second);
  };
  for (const auto& [pair, out] : sent) {
    const auto& in = received[pair];
    for (std::size_t n = 0; n < std::max(out.size(), in.size()); ++n) {
      if (n >= in.size()) return status{s.name + ": " + said(out[n]) + ": never received"};
      if (n >= out.size()) return status{s.name + ": " + said(in[n]) + ": never sent"};
      const instruction &a = out[n].second, &b = in[n].second;
      if (a.carries != b.carries || a.of.micro_batch != b.of.micro_batch ||
          !(a.carries == payload::activation
                ? s.places.after({pair.first, a.of.chunk}) == location{pair.second, b.of.chunk}
                : s.places.before({pair.first, a.of.chunk}) == location{pair.second, b.of.chunk}))
        return status{s.name + ": " + said(out[n]) + ", meets " + said(in[n])};
    }
  }
  return {};
}

/// Whether the lists come to their ends if every send waits until it is received.
inline status check_progress(const schedule& s) {
  const std::vector<std::size_t> at = walk(
      s, [](int, std::size_t) {}, [](int, std::size_t, int, std::size_t) {});
  for (int rank = 0; rank < s.places.ranks(); ++rank) {
    const auto stuck = [&](int r) -> const instruction* {
      const std::vector<instruction>& list = s.ranks[static_cast<std::size_t>(r)];
      const std::size_t i = at[static_cast<std::size_t>(r)];
      return i < list.size() ? &list[i] : nullptr;
    };
    const instruction* first = stuck(rank);
    if (!first) continue;
    // Following who waits for whom leads into the circle; there it starts to be told.
    int on = rank;
    for (int i = 0; i < s.places.ranks() && stuck(on); ++i) on = stuck(on)->peer;
    std::string told;
    for (int next = on; stuck(next) && (told.empty() || next != on); next = stuck(next)->peer)
      told += (told.empty() ? "rank " : ", rank ") + std::to_string(next) + " " + to_string(*stuck(next));
    return status{s.name + ": a deadlock, " +
                  (told.empty() ? "rank " + std::to_string(rank) + " " + to_string(*first) : told)};
  }
  return {};
}

}  // namespace detail

/// Good if every micro-batch goes once forward and once backward through each stage of its route, nothing is
/// owed at the end, every input is there before it is used, sends and receives match in order, and no rank
/// waits for ever, even where a send returns only when it is received. Otherwise the first fault.
inline status verify(const schedule& s) {
  if (const status names = check_names(s); !names) return names;
  for (int rank = 0; rank < s.places.ranks(); ++rank) {
    detail::rank_record record{s, rank};
    const std::vector<instruction>& list = s.ranks[static_cast<std::size_t>(rank)];
    for (std::size_t i = 0; i < list.size(); ++i)
      if (const std::string wrong = record.take(list[i]); !wrong.empty())
        return status{s.name + ": rank " + std::to_string(rank) + ", entry " + std::to_string(i) + ", " +
                      to_string(list[i]) + ": " + wrong};
    if (const std::string missing = record.missing(); !missing.empty())
      return status{s.name + ": " + missing};
  }
  if (const status messages = detail::check_messages(s); !messages) return messages;
  return detail::check_progress(s);
}

/// What a rank stores at most, in units.
struct peak_storage {
  int activations = 0;       // from forward to the end of backward, its second half included
  int weight_gradients = 0;  // that are owed
  int received = 0;          // messages that came and wait to be used
};

/// Of every rank of a good schedule.
inline std::vector<peak_storage> peaks(const schedule& s) {
  std::vector<peak_storage> all;
  for (int rank = 0; rank < s.places.ranks(); ++rank) {
    peak_storage now, peak;
    const auto note = [&] {
      peak.activations = std::max(peak.activations, now.activations);
      peak.weight_gradients = std::max(peak.weight_gradients, now.weight_gradients);
      peak.received = std::max(peak.received, now.received);
    };
    const auto comes_from_elsewhere = [&](const unit& u, bool forward) {
      const location here{rank, u.chunk};
      if (forward ? s.places.is_first(here) : s.places.is_last(here)) return false;
      return (forward ? s.places.before(here) : s.places.after(here)).rank != rank;
    };
    for (const instruction& i : s.ranks[static_cast<std::size_t>(rank)]) {
      if (i.what == act::receive) ++now.received;
      if (goes_forward(i)) ++now.activations;
      if (i.what == act::input_gradient) ++now.weight_gradients;
      note();
      if (goes_forward(i)) now.received -= comes_from_elsewhere(i.of, true);
      if (goes_backward(i)) now.received -= comes_from_elsewhere(backward_unit(i), false);
      if (i.what == act::backward || i.what == act::overlapped) --now.activations;
      if (i.what == act::weight_gradient) --now.activations, --now.weight_gradients;
    }
    all.push_back(peak);
  }
  return all;
}

}  // namespace dsv3::inline DSV3_ABI::pipeline
