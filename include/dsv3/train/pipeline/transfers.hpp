// SPDX-License-Identifier: MIT
// Puts the sends and receives into lists of computing, in an order in which nobody waits for ever.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/train/pipeline/schedule.hpp>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI::pipeline {

namespace detail {

/// When lists of computing alone would run, if messages took no time: in whole steps, a forward or half a
/// backward each.
class step_clock {
 public:
  static constexpr int never = std::numeric_limits<int>::max();

  explicit step_clock(const schedule& s) : s_(s), start_(s.ranks.size()) {
    const std::size_t units = s.ranks.size() * static_cast<std::size_t>(s.places.chunks() * s.micro_batches);
    forward_.assign(units, {}), backward_.assign(units, {});
    std::vector<int> free(s.ranks.size(), 0);
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t r = 0; r < s.ranks.size(); ++r)
        while (start_[r].size() < s.ranks[r].size() && advance(static_cast<int>(r), free[r])) moved = true;
    }
    for (std::size_t r = 0; r < s.ranks.size(); ++r)
      if (start_[r].size() < s.ranks[r].size())
        raise(s.name + ": rank " + std::to_string(r) + " can never start the " +
              to_string(s.ranks[r][start_[r].size()]) + ", what it needs comes later or never");
  }

  int start(int rank, std::size_t i) const {
    const std::vector<int>& of = start_[static_cast<std::size_t>(rank)];
    return i < of.size() ? of[i] : never;
  }
  int start_of_forward(location at, int micro_batch) const { return forward_[slot(at, micro_batch)].start; }
  int start_of_backward(location at, int micro_batch) const { return backward_[slot(at, micro_batch)].start; }

 private:
  struct interval {
    int start = never, end = never;
  };

  std::size_t slot(location at, int micro_batch) const {
    return (static_cast<std::size_t>(at.rank) * static_cast<std::size_t>(s_.places.chunks()) +
            static_cast<std::size_t>(at.chunk)) *
               static_cast<std::size_t>(s_.micro_batches) +
           static_cast<std::size_t>(micro_batch);
  }

  // Runs the rank's next instruction if what it needs is known.
  bool advance(int rank, int& free) {
    const std::size_t r = static_cast<std::size_t>(rank);
    const instruction& i = s_.ranks[r][start_[r].size()];
    int begin = free;
    if (goes_forward(i)) {
      const location at{rank, i.of.chunk};
      if (!s_.places.is_first(at))
        begin = std::max(begin, forward_[slot(s_.places.before(at), i.of.micro_batch)].end);
    }
    if (goes_backward(i)) {
      const unit u = backward_unit(i);
      const location at{rank, u.chunk};
      const int ready = s_.places.is_last(at) ? forward_[slot(at, u.micro_batch)].end
                                              : backward_[slot(s_.places.after(at), u.micro_batch)].end;
      begin = std::max(begin, ready);
    }
    if (begin == never) return false;
    free = begin + (i.what == act::overlapped ? 3 : i.what == act::backward ? 2 : 1);
    if (goes_forward(i)) forward_[slot({rank, i.of.chunk}, i.of.micro_batch)] = interval{begin, free};
    if (goes_backward(i)) {
      const unit u = backward_unit(i);
      backward_[slot({rank, u.chunk}, u.micro_batch)] = interval{begin, free};
    }
    start_[r].push_back(begin);
    return true;
  }

  const schedule& s_;
  std::vector<std::vector<int>> start_;       // by rank and place in its list
  std::vector<interval> forward_, backward_;  // by rank, chunk and micro-batch
};

}  // namespace detail

/// Completes lists of computing with their messages. Every message gets one moment, the same for both ranks:
/// not before it is made, not after it is needed, and no later than the sender's next computing. As all lists
/// follow one order of moments, no rank waits for ever, even where a send returns only when it is received;
/// and a rank that posts what stands between two computings at once waits at most as long.
inline schedule with_transfers(schedule s) {
  require(check_names(s));
  const detail::step_clock clock{s};
  // Of one moment: messages before computing, pairs of ranks that do not touch each other together.
  struct entry {
    std::tuple<int, int, int, int, int, int, int> moment;
    instruction what;
  };
  std::vector<std::vector<entry>> lists(s.ranks.size());
  const auto pass_on = [&](location from, location to, int micro_batch, payload carries, int moment) {
    const int low = std::min(from.rank, to.rank);
    const std::tuple key{moment, 0, low % 2, low, from.rank, static_cast<int>(carries), micro_batch};
    lists[static_cast<std::size_t>(from.rank)].push_back(
        {key, {.what = act::send, .of = {micro_batch, from.chunk}, .carries = carries, .peer = to.rank}});
    lists[static_cast<std::size_t>(to.rank)].push_back(
        {key, {.what = act::receive, .of = {micro_batch, to.chunk}, .carries = carries, .peer = from.rank}});
  };
  for (int rank = 0; rank < s.places.ranks(); ++rank) {
    const std::vector<instruction>& list = s.ranks[static_cast<std::size_t>(rank)];
    for (std::size_t n = 0; n < list.size(); ++n) {
      const instruction& i = list[n];
      lists[static_cast<std::size_t>(rank)].push_back({{clock.start(rank, n), 1, 0, 0, 0, 0, 0}, i});
      const int next = clock.start(rank, n + 1);
      if (goes_forward(i)) {
        const location from{rank, i.of.chunk};
        if (!s.places.is_last(from) && s.places.after(from).rank != rank) {
          const location to = s.places.after(from);
          pass_on(from, to, i.of.micro_batch, payload::activation,
                  std::min(next, clock.start_of_forward(to, i.of.micro_batch)));
        }
      }
      if (goes_backward(i)) {
        const unit u = backward_unit(i);
        const location from{rank, u.chunk};
        if (!s.places.is_first(from) && s.places.before(from).rank != rank) {
          const location to = s.places.before(from);
          pass_on(from, to, u.micro_batch, payload::gradient,
                  std::min(next, clock.start_of_backward(to, u.micro_batch)));
        }
      }
    }
  }
  for (std::size_t r = 0; r < lists.size(); ++r) {
    std::sort(lists[r].begin(), lists[r].end(),
              [](const entry& a, const entry& b) { return a.moment < b.moment; });
    s.ranks[r].clear();
    for (entry& each : lists[r]) s.ranks[r].push_back(each.what);
  }
  return s;
}

}  // namespace dsv3::inline DSV3_ABI::pipeline
