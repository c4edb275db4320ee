// SPDX-License-Identifier: MIT
// Writes a rank's list of computing: counts micro-batches and remembers which weight gradients are owed.
#pragma once

#include <dsv3/train/pipeline/schedule.hpp>

#include <cstddef>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI::pipeline {

/// Every call takes the next micro-batch of its chunk.
class list_writer {
 public:
  list_writer(const schedule& s, int rank) : next_(static_cast<std::size_t>(s.places.chunks())) {
    for (int chunk = 0; chunk < s.places.chunks(); ++chunk) {
      const int first = s.places.route_of({rank, chunk}) * s.micro_batches_per_route();
      of(chunk) = counters{first, first, first + s.micro_batches_per_route()};
    }
  }

  bool forwards_left(int chunk) const { return next_[static_cast<std::size_t>(chunk)].forwards_left(); }
  bool backwards_left(int chunk) const { return next_[static_cast<std::size_t>(chunk)].backwards_left(); }
  int owed() const { return static_cast<int>(owed_.size() - paid_); }

  void forward(int chunk) { list_.push_back({.what = act::forward, .of = {of(chunk).forward++, chunk}}); }
  void backward(int chunk) { list_.push_back({.what = act::backward, .of = {of(chunk).backward++, chunk}}); }
  void input_gradient(int chunk) {
    owed_.push_back({of(chunk).backward++, chunk});
    list_.push_back({.what = act::input_gradient, .of = owed_.back()});
  }
  /// Of the unit that has waited longest.
  void weight_gradient() { list_.push_back({.what = act::weight_gradient, .of = owed_[paid_++]}); }
  void overlapped(int forward_chunk, int backward_chunk) {
    list_.push_back({.what = act::overlapped,
                     .of = {of(forward_chunk).forward++, forward_chunk},
                     .back = {of(backward_chunk).backward++, backward_chunk}});
  }

  std::vector<instruction> take() { return std::move(list_); }

 private:
  struct counters {
    int forward = 0, backward = 0, end = 0;
    bool forwards_left() const { return forward < end; }
    bool backwards_left() const { return backward < end; }
  };
  counters& of(int chunk) { return next_[static_cast<std::size_t>(chunk)]; }

  std::vector<counters> next_;  // by chunk
  std::vector<unit> owed_;
  std::size_t paid_ = 0;
  std::vector<instruction> list_;
};

}  // namespace dsv3::inline DSV3_ABI::pipeline
