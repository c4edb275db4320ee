// SPDX-License-Identifier: MIT
// What a rank did last: every call of a communicator, with the step and layer it belongs to.
#pragma once

#include <dsv3/base/config.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace dsv3::inline DSV3_ABI {

/// The last operations of a rank, on all of its groups. A communicator writes here before and after each
/// call: a few stores, no lock, no memory. Several threads may.
class comm_journal {
 public:
  static constexpr std::size_t capacity = 64;

  /// Which step and layer calls belong to from now on; -1: none. `comm_scope` sets them for a while.
  std::atomic<std::int64_t> step = -1;
  std::atomic<int> layer = -1;

  /// A call begins; what comes back is for end().
  std::uint64_t begin(const char* op, std::size_t bytes, int ranks, int peer = -1) {
    const std::uint64_t number = count_.fetch_add(1, std::memory_order_relaxed);
    entry& e = entries_[number % capacity];
    e.ended.store(false, std::memory_order_relaxed);
    e.step.store(step.load(std::memory_order_relaxed), std::memory_order_relaxed);
    e.layer.store(layer.load(std::memory_order_relaxed), std::memory_order_relaxed);
    e.op.store(op, std::memory_order_relaxed);
    e.bytes.store(bytes, std::memory_order_relaxed);
    e.ranks.store(ranks, std::memory_order_relaxed);
    e.peer.store(peer, std::memory_order_relaxed);
    return number;
  }
  void end(std::uint64_t number) {
    if (count_.load(std::memory_order_relaxed) - number <= capacity)
      entries_[number % capacity].ended.store(true, std::memory_order_relaxed);
  }

  /// How many calls there were.
  std::uint64_t count() const { return count_.load(std::memory_order_relaxed); }

  /// The last `most` calls, oldest first, a line each:
  ///   #41 step 12 layer 3: all_reduce of 4096 bytes among 8 ranks
  ///   #42 step 12 layer 3: send of 512 bytes, rank 3 of 8 ranks, not finished
  std::string report(std::size_t most = 8) const {
    std::string text;
    line room;
    each_last(most, [&](std::uint64_t number) { text.append(room.data(), describe(number, room)); });
    return text;
  }

  /// The same, straight to a file descriptor and without memory or locks, as a signal's handler may.
  void write_to(int descriptor, std::size_t most = 8) const noexcept {
    line room;
    each_last(most, [&](std::uint64_t number) {
      const std::size_t length = describe(number, room);
      if (::write(descriptor, room.data(), length) < 0) return;  // nobody is left to tell
    });
  }

 private:
  struct entry {
    std::atomic<std::int64_t> step = -1;
    std::atomic<std::uint64_t> bytes = 0;
    std::atomic<const char*> op = "";
    std::atomic<int> layer = -1, ranks = 0, peer = -1;
    std::atomic<bool> ended = false;
  };
  using line = std::array<char, 192>;

  template <class Visit>
  void each_last(std::size_t most, Visit&& visit) const {
    const std::uint64_t all = count();
    for (std::uint64_t n = all - std::min<std::uint64_t>({all, most, capacity}); n < all; ++n) visit(n);
  }

  // By hand: the library's formatting may take memory and locks.
  struct writer {
    line& room;
    std::size_t at = 0;

    void text(const char* words) {
      while (*words != 0 && at + 1 < room.size()) room[at++] = *words++;
    }
    void number(std::uint64_t value) {
      char digits[24];
      std::size_t count = 0;
      do digits[count++] = static_cast<char>('0' + value % 10);
      while ((value /= 10) != 0);
      while (count > 0 && at + 1 < room.size()) room[at++] = digits[--count];
    }
  };
  std::size_t describe(std::uint64_t number, line& room) const {
    const entry& e = entries_[number % capacity];
    const std::int64_t its_step = e.step.load(std::memory_order_relaxed);
    const int its_layer = e.layer.load(std::memory_order_relaxed),
              peer = e.peer.load(std::memory_order_relaxed);
    writer out{room};
    out.text("  #"), out.number(number);
    if (its_step >= 0) out.text(" step "), out.number(static_cast<std::uint64_t>(its_step));
    if (its_layer >= 0) out.text(" layer "), out.number(static_cast<std::uint64_t>(its_layer));
    out.text(": "), out.text(e.op.load(std::memory_order_relaxed));
    out.text(" of "), out.number(e.bytes.load(std::memory_order_relaxed)), out.text(" bytes");
    if (peer >= 0) out.text(", rank "), out.number(static_cast<std::uint64_t>(peer));
    out.text(peer >= 0 ? " of " : " among "),
        out.number(static_cast<std::uint64_t>(e.ranks.load(std::memory_order_relaxed)));
    out.text(" ranks");
    if (!e.ended.load(std::memory_order_relaxed)) out.text(", not finished");
    room[out.at++] = '\n';
    return out.at;
  }

  std::array<entry, capacity> entries_;
  std::atomic<std::uint64_t> count_ = 0;
};

/// Calls within its life belong to this step and layer; -1 leaves what was said outside.
///
///     const comm_scope in_step{comm.journal(), {.step = 12}};
class comm_scope {
 public:
  struct place {
    std::int64_t step = -1;
    int layer = -1;
  };
  comm_scope(comm_journal* journal, place here) : journal_(journal) {
    if (journal_ == nullptr) return;
    outside_ = {journal_->step, journal_->layer};
    if (here.step >= 0) journal_->step = here.step;
    if (here.layer >= 0) journal_->layer = here.layer;
  }
  comm_scope(const comm_scope&) = delete;
  comm_scope& operator=(const comm_scope&) = delete;
  ~comm_scope() {
    if (journal_ != nullptr) journal_->step = outside_.step, journal_->layer = outside_.layer;
  }

 private:
  comm_journal* journal_;
  place outside_;
};

}  // namespace dsv3::inline DSV3_ABI
