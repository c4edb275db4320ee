// SPDX-License-Identifier: MIT
// N ranks as N threads of one process: every layout of ranks, without a second process.
#pragma once

#include <dsv3/comm/any_communicator.hpp>
#include <dsv3/comm/ordered_reduction.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

namespace detail {

// What one rank asks of a collective; every rank of the group must ask for the same.
struct thread_call {
  const char* verb = "";
  std::size_t bytes = 0;  // of each rank's part
  std::string what = {};  // element and reduction, or the root
  const void* from = nullptr;
  void* to = nullptr;
  int color = 0, key = 0;

  bool same(const thread_call& other) const {
    return std::string_view(verb) == other.verb && bytes == other.bytes && what == other.what;
  }
  std::string words() const { return std::string(verb) + " of " + std::to_string(bytes) + " bytes" + what; }
};

// A message that waits for its receiver, at its sender.
struct thread_message {
  enum class stage { waits, copied, done };
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  int peer = 0;
  stage at = stage::waits;
};

// What the ranks of all groups share. The mutex guards everything that says who is where, never the data.
struct thread_job {
  // Where a rank waits: others wake it when something that it may wait for has changed.
  struct place {
    std::condition_variable changed;
    bool ended = false;
    const char* verb = "nothing";  // its last
    std::exception_ptr failure;
  };

  thread_job(int ranks, std::chrono::milliseconds waits)
      : limit(waits), places(static_cast<std::size_t>(ranks)) {}

  place& at(int rank) { return places[static_cast<std::size_t>(rank)]; }

  // With the mutex held.
  void stop(int rank, const std::string& why) {
    if (stopped) return;
    stopped = true;
    origin = rank;
    reason = why;
    for (place& p : places) p.changed.notify_all();
  }
  void end(int rank, std::exception_ptr failure, const std::string& why) {
    const std::lock_guard lock(mutex);
    at(rank).ended = true;
    at(rank).failure = failure;
    if (failure) stop(rank, why);
    for (place& p : places) p.changed.notify_all();
  }

  const std::chrono::milliseconds limit;
  std::mutex mutex;
  std::deque<place> places;
  bool stopped = false;
  int origin = -1;
  std::string reason;
};

// The ranks that call collectives together.
struct thread_group {
  thread_group(std::shared_ptr<thread_job> whole, std::vector<int> ranks)
      : job(std::move(whole)),
        members(std::move(ranks)),
        calls(members.size()),
        entered(members.size()),
        children(members.size()),
        mail(members.size() * members.size()) {}

  int size() const { return static_cast<int>(members.size()); }
  std::deque<thread_message*>& box(int from, int to) {
    return mail[static_cast<std::size_t>(from) * members.size() + static_cast<std::size_t>(to)];
  }

  const std::shared_ptr<thread_job> job;
  const std::vector<int> members;  // in the job's numbers
  std::vector<thread_call> calls;
  std::vector<std::uint64_t> entered;  // how many meetings each rank has come to
  std::vector<std::shared_ptr<thread_group>> children;
  std::vector<std::deque<thread_message*>> mail;  // per sender and receiver, in order
};

class thread_rank final : public comm_engine {
 public:
  thread_rank(std::shared_ptr<thread_group> group, int rank) : group_(std::move(group)), rank_(rank) {}

  const char* name() const override { return "threads"; }
  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  // Each rank reduces its slice of everyone's data, for everyone.
  void all_reduce(void*, void* data, index_t count, reduced_element element, reduction how) const override {
    collective(reducing("all_reduce", count, element, how, data, data), [&] {
      const std::vector<const void*> from = inputs();
      std::vector<void*> to;
      for (const thread_call& call : group_->calls) to.push_back(call.to);
      reduce_in_order(from, to, split_range(count, rank_, size()), element, how);
    });
  }
  void reduce_scatter(void*, const void* from, void* to, index_t count, reduced_element element,
                      reduction how) const override {
    collective(reducing("reduce_scatter", count, element, how, from, to), [&] {
      std::vector<const void*> parts = inputs();
      const auto part = static_cast<std::size_t>(rank_ * count) * bytes_of(element);
      for (const void*& p : parts) p = static_cast<const std::byte*>(p) + part;
      reduce_in_order(parts, {&to, 1}, {0, count}, element, how);
    });
  }
  void all_gather(void*, const void* from, void* to, std::size_t bytes) const override {
    collective({.verb = "all_gather", .bytes = bytes, .from = from, .to = to}, [&] {
      for (int q = 0; q < size(); ++q) copy(part(to, q, bytes), call_of(q).from, bytes);
    });
  }
  void all_to_all(void*, const void* from, void* to, std::size_t bytes) const override {
    collective({.verb = "all_to_all", .bytes = bytes, .from = from, .to = to}, [&] {
      for (int q = 0; q < size(); ++q)
        copy(part(to, q, bytes), static_cast<const std::byte*>(call_of(q).from) + part_bytes(rank_, bytes),
             bytes);
    });
  }
  void broadcast(void*, void* data, std::size_t bytes, int root) const override {
    collective(
        {.verb = "broadcast", .bytes = bytes, .what = " from rank " + std::to_string(root), .to = data},
        [&] { copy(data, call_of(root).to, bytes); });
  }
  void barrier() const override {
    collective({.verb = "barrier"}, [] {});
  }

  std::unique_ptr<comm_engine> split(int color, int key) const override {
    std::vector<int> ranks;
    // The first of each color makes the group; all of them take it when it is there.
    collective({.verb = "split", .color = color, .key = key}, [&] {
      for (int q = 0; q < size(); ++q)
        if (call_of(q).color == color) ranks.push_back(q);
      std::stable_sort(ranks.begin(), ranks.end(),
                       [&](int a, int b) { return call_of(a).key < call_of(b).key; });
      if (ranks.front() != rank_) return;
      std::vector<int> members;
      for (const int q : ranks) members.push_back(group_->members[static_cast<std::size_t>(q)]);
      child_of(rank_) = std::make_shared<thread_group>(group_->job, std::move(members));
    });
    std::shared_ptr<thread_group> child;
    collective({.verb = "split"}, [&] { child = child_of(ranks.front()); });
    child_of(rank_).reset();
    const auto place = std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin();
    return std::make_unique<thread_rank>(std::move(child), static_cast<int>(place));
  }

  void exchange(void* stream, std::span<const outgoing_message> out,
                std::span<const incoming_message> in) const override {
    transfer(*this, out, in).finish(stream);
  }
  std::unique_ptr<comm_transfer> begin_exchange(void*, std::span<const outgoing_message> out,
                                                std::span<const incoming_message> in) const override {
    return std::make_unique<transfer>(*this, out, in);
  }

  void abort(const std::string& reason) const override {
    const std::lock_guard lock(job().mutex);
    job().stop(group_->members[static_cast<std::size_t>(rank_)], reason);
  }

 private:
  thread_job& job() const { return *group_->job; }
  thread_job::place& place_of(int rank) const {
    return job().at(group_->members[static_cast<std::size_t>(rank)]);
  }
  const thread_call& call_of(int rank) const { return group_->calls[static_cast<std::size_t>(rank)]; }
  std::shared_ptr<thread_group>& child_of(int rank) const {
    return group_->children[static_cast<std::size_t>(rank)];
  }
  void wake(int rank) const { place_of(rank).changed.notify_all(); }

  static std::size_t part_bytes(int rank, std::size_t bytes) {
    return static_cast<std::size_t>(rank) * bytes;
  }
  static std::byte* part(void* whole, int rank, std::size_t bytes) {
    return static_cast<std::byte*>(whole) + part_bytes(rank, bytes);
  }
  static void copy(void* to, const void* from, std::size_t bytes) {
    if (to != from && bytes > 0) std::memcpy(to, from, bytes);
  }
  static thread_call reducing(const char* verb, index_t count, reduced_element element, reduction how,
                              const void* from, void* to) {
    return {.verb = verb,
            .bytes = static_cast<std::size_t>(count) * bytes_of(element),
            .what = std::string(", ") + name_of(how) + " of " + name_of(element),
            .from = from,
            .to = to};
  }
  std::vector<const void*> inputs() const {
    std::vector<const void*> result;
    for (const thread_call& call : group_->calls) result.push_back(call.from);
    return result;
  }

  std::string who() const {
    const int world = group_->members[static_cast<std::size_t>(rank_)];
    const std::string named = "rank " + std::to_string(rank_) + " of " + std::to_string(size());
    const bool whole = group_->members.size() == job().places.size();
    return "threads: " + named + (whole ? "" : " (" + std::to_string(world) + " of all)");
  }
  // Sentences that end the job, with the mutex held.
  [[noreturn]] void give_up(const std::string& what) const {
    const std::string sentence = who() + " " + what;
    job().stop(group_->members[static_cast<std::size_t>(rank_)], sentence);
    raise(sentence);
  }
  [[noreturn]] void stopped(const char* verb) const {
    raise(who() + " is stopped in " + verb + ": " + job().reason);
  }
  void enter(const char* verb) const {
    if (job().stopped) stopped(verb);
    place_of(rank_).verb = verb;
  }

  // Until `done()`, or the job ends, or the rank that is `missing()` has ended or takes too long.
  template <class Done, class Missing>
  void wait(std::unique_lock<std::mutex>& lock, Done&& done, Missing&& missing, const char* verb,
            const std::string& for_what) const {
    const auto deadline = std::chrono::steady_clock::now() + job().limit;
    while (!done()) {
      if (job().stopped) stopped(verb);
      const int peer = missing();
      const thread_job::place& place = place_of(peer);
      const auto waits = [&](const std::string& how) {
        return "waits in " + std::string(verb) + " for rank " + std::to_string(peer) + for_what + how;
      };
      if (place.ended) give_up(waits(", which has ended"));
      if (std::chrono::steady_clock::now() >= deadline) {
        char seconds[32];
        std::snprintf(seconds, sizeof seconds, "%g", std::chrono::duration<double>(job().limit).count());
        give_up(waits(" since " + std::string(seconds) + " s; that rank was last in " + place.verb));
      }
      place_of(rank_).changed.wait_until(lock, deadline);
    }
  }

  // Every rank says what it asks for; when all have come, `work` reads what they brought, and all stay until
  // nobody reads any more. Between the two meetings nobody waits, so the second needs no limit.
  template <class Work>
  void collective(thread_call call, Work&& work) const {
    const char* verb = call.verb;
    {
      std::unique_lock lock(job().mutex);
      enter(verb);
      group_->calls[static_cast<std::size_t>(rank_)] = std::move(call);
      const std::uint64_t meeting = come();
      wait(
          lock, [&] { return first_missing(meeting) < 0; }, [&] { return first_missing(meeting); }, verb, "");
      for (int q = 1; q < size(); ++q)
        if (!call_of(q).same(call_of(0)))
          give_up("finds that rank " + std::to_string(q) + " calls " + call_of(q).words() + ", rank 0 " +
                  call_of(0).words());
    }
    const farewell at_the_end{*this};
    work();
  }
  struct farewell {
    const thread_rank& rank;
    ~farewell() { rank.meet(); }  // also where memory for the work ran out: the others wait for this rank
  };
  std::uint64_t come() const {
    const std::uint64_t meeting = ++group_->entered[static_cast<std::size_t>(rank_)];
    if (first_missing(meeting) < 0)
      for (int q = 0; q < size(); ++q) wake(q);
    return meeting;
  }
  int first_missing(std::uint64_t meeting) const {
    for (int q = 0; q < size(); ++q)
      if (group_->entered[static_cast<std::size_t>(q)] < meeting) return q;
    return -1;
  }
  void meet() const {
    std::unique_lock lock(job().mutex);
    const std::uint64_t meeting = come();
    place_of(rank_).changed.wait(lock, [&] { return first_missing(meeting) < 0; });
  }

  // Every message is posted before the first is waited for. A receiver copies straight from the sender's
  // array; a sender stays until its messages are out.
  class transfer final : public comm_transfer {
   public:
    transfer(const thread_rank& rank, std::span<const outgoing_message> out,
             std::span<const incoming_message> in)
        : rank_(rank), in_(in.begin(), in.end()) {
      for (const outgoing_message& m : out) messages_.push_back({m.data, m.bytes, m.peer});
      const std::lock_guard lock(rank_.job().mutex);
      rank_.enter("exchange");
      for (thread_message& m : messages_) {
        rank_.group_->box(rank_.rank_, m.peer).push_back(&m);
        rank_.wake(m.peer);
      }
    }
    // Whatever ends an exchange, nobody reads this rank's arrays afterwards.
    ~transfer() override {
      std::unique_lock lock(rank_.job().mutex);
      for (thread_message& m : messages_) {
        if (m.at == thread_message::stage::waits) std::erase(rank_.group_->box(rank_.rank_, m.peer), &m);
        rank_.place_of(rank_.rank_).changed.wait(lock, [&] { return m.at != thread_message::stage::copied; });
      }
    }

    void finish(void*) override {
      const int own = rank_.rank_;
      std::unique_lock lock(rank_.job().mutex);
      for (const incoming_message& m : in_) {
        std::deque<thread_message*>& box = rank_.group_->box(m.peer, own);
        if (m.peer == own && box.empty())
          rank_.give_up("receives more messages of its own than it sends itself in exchange");
        rank_.wait(
            lock, [&] { return !box.empty(); }, [&] { return m.peer; }, "exchange",
            " to send " + std::to_string(m.bytes) + " bytes");
        thread_message& message = *box.front();
        if (message.bytes != m.bytes)
          rank_.give_up("expects " + std::to_string(m.bytes) + " bytes from rank " + std::to_string(m.peer) +
                        " in exchange, which sends " + std::to_string(message.bytes));
        box.pop_front();
        message.at = thread_message::stage::copied;
        lock.unlock();
        copy(m.data, message.data, m.bytes);
        lock.lock();
        message.at = thread_message::stage::done;
        rank_.wake(m.peer);
      }
      for (const thread_message& m : messages_) {
        if (m.peer == own && m.at == thread_message::stage::waits)
          rank_.give_up("sends more messages to itself than it receives of its own in exchange");
        rank_.wait(
            lock, [&] { return m.at == thread_message::stage::done; }, [&] { return m.peer; }, "exchange",
            " to take " + std::to_string(m.bytes) + " bytes");
      }
    }

   private:
    const thread_rank& rank_;
    std::vector<thread_message> messages_;
    std::vector<incoming_message> in_;
  };

  std::shared_ptr<thread_group> group_;
  int rank_;
};

}  // namespace detail

/// A number of ranks, each a thread of this process.
///
///     thread_ranks{4}.run([&](const any_communicator& comm) { ... comm.all_reduce(ctx, data,
///     reduction::sum); });
///
/// Sums are taken in rank order, each rank over its slice. Transfers copy once, from the sender's array to
/// the receiver's. A rank that waits longer than `limit`, or for one that has ended, raises a sentence with
/// rank, verb and peer, and ends all of them.
class thread_ranks {
 public:
  explicit thread_ranks(int ranks, std::chrono::milliseconds limit = std::chrono::minutes(5))
      : ranks_(ranks), limit_(limit) {
    if (ranks < 1) raise("threads: found " + std::to_string(ranks) + " ranks, expected at least one");
  }

  int size() const { return ranks_; }

  /// Runs work(communicator of the rank) on one thread per rank and waits for all of them. The first thing
  /// that is thrown ends what the other ranks wait for, and is thrown here.
  template <class Work>
  void run(Work&& work) const {
    const auto job = std::make_shared<detail::thread_job>(ranks_, limit_);
    std::vector<int> members(static_cast<std::size_t>(ranks_));
    std::iota(members.begin(), members.end(), 0);
    const auto world = std::make_shared<detail::thread_group>(job, members);
    std::vector<std::jthread> threads;  // join before the job goes
    for (const int rank : members)
      threads.emplace_back([&, rank] {
        run_rank(*job, rank,
                 [&] { work(any_communicator{std::make_shared<detail::thread_rank>(world, rank)}); });
      });
    threads.clear();
    if (!job->stopped) return;
    if (job->origin >= 0 && job->at(job->origin).failure)
      std::rethrow_exception(job->at(job->origin).failure);
    raise(job->reason);
  }

 private:
  template <class Work>
  static void run_rank(detail::thread_job& job, int rank, Work&& work) {
#if defined(DSV3_NO_EXCEPTIONS)
    work();
    job.end(rank, nullptr, "");
#else
    const std::string failed = "rank " + std::to_string(rank) + " failed";
    try {
      work();
      job.end(rank, nullptr, "");
    } catch (const std::exception& failure) {
      job.end(rank, std::current_exception(), failed + ": " + failure.what());
    } catch (...) {
      job.end(rank, std::current_exception(), failed);
    }
#endif
  }

  int ranks_;
  std::chrono::milliseconds limit_;
};

}  // namespace dsv3::inline DSV3_ABI
