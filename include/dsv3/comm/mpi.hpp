// SPDX-License-Identifier: MIT
// Ranks as processes that MPI has started, on one machine or many; component dsv3::mpi.
#pragma once

#include <dsv3/comm/any_communicator.hpp>
#include <dsv3/comm/ordered_reduction.hpp>

#if !defined(OMPI_SKIP_MPICXX)
#define OMPI_SKIP_MPICXX 1  // the C++ bindings that MPI has given up
#endif
#if !defined(MPICH_SKIP_MPICXX)
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// How ranks of MPI wait and how they cut what they send.
struct mpi_options {
  std::chrono::milliseconds limit = std::chrono::minutes(5);  // the longest that one call waits for a rank
  std::size_t largest_message = std::size_t{1} << 30;         // bytes; MPI counts them in 31 bits
  std::size_t largest_block = std::size_t{8} << 20;           // bytes of each rank's data reduced at a time
};

namespace detail {

// What all groups of this process share.
struct mpi_job {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1;
  int groups = 1;  // numbers of groups that this rank has seen; a group's number sets its messages apart
  mpi_options options;
  std::atomic<bool> stopped = false;
  std::mutex mutex;
  std::string reason;

  static constexpr int stop_tag = 0;

  void stop(const std::string& why) {
    const std::lock_guard lock(mutex);
    if (stopped.exchange(true)) return;
    reason = why;
  }
  std::string why() {
    const std::lock_guard lock(mutex);
    return reason;
  }

  // Tells every rank, as far as it listens: what MPI cannot pass on within a second is left to its launcher,
  // which ends all processes when one has ended with an error.
  void tell(const std::string& why) {
    std::vector<MPI_Request> sent;
    for (int q = 0; q < size; ++q)
      if (q != rank)
        MPI_Isend(why.data(), static_cast<int>(why.size()), MPI_CHAR, q, stop_tag, comm,
                  &sent.emplace_back());
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    for (int done = 0; done == 0 && std::chrono::steady_clock::now() < until; std::this_thread::yield())
      MPI_Testall(static_cast<int>(sent.size()), sent.data(), &done, MPI_STATUSES_IGNORE);
  }
  // Whether another rank has told.
  void listen() {
    int told = 0;
    MPI_Message message;
    MPI_Status found;
    if (MPI_Improbe(MPI_ANY_SOURCE, stop_tag, comm, &told, &message, &found) != MPI_SUCCESS || told == 0)
      return;
    int length = 0;
    MPI_Get_count(&found, MPI_CHAR, &length);
    std::string why(static_cast<std::size_t>(length), ' ');
    MPI_Mrecv(why.data(), length, MPI_CHAR, &message, MPI_STATUS_IGNORE);
    stop("rank " + std::to_string(found.MPI_SOURCE) + " stopped all: " + why);
  }
};

class mpi_rank final : public comm_engine {
 public:
  mpi_rank(std::shared_ptr<mpi_job> job, std::vector<int> members, int rank, int group)
      : job_(std::move(job)), members_(std::move(members)), rank_(rank), group_(group) {}

  const char* name() const override { return "mpi"; }
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }

  // Each rank collects everyone's data for its slice, reduces them in order, and gives the result to all.
  void all_reduce(void*, void* data, index_t count, reduced_element element, reduction how) const override {
    const std::size_t width = bytes_of(element);
    call act = begin("all_reduce", static_cast<std::size_t>(count) * width, code(element, how));
    auto* bytes = static_cast<std::byte*>(data);
    const auto block = static_cast<index_t>(std::max<std::size_t>(job_->options.largest_block / width, 1));
    for (index_t at = 0; at < count; at += block) {
      const index_t length = std::min(block, count - at);
      std::byte* here = bytes + static_cast<std::size_t>(at) * width;
      const auto slice = [&](int q) {
        const index_range r = split_range(length, q, size());
        return std::span(here + static_cast<std::size_t>(r.begin) * width,
                         static_cast<std::size_t>(r.count()) * width);
      };
      reduce_part(act, slice(rank_), slice, slice(rank_).data(), element, how);
      for (int q = 0; q < size(); ++q)
        if (q != rank_) receive_bytes(act, q, slice(q).data(), slice(q).size());
      for (int q = 0; q < size(); ++q)
        if (q != rank_) send_bytes(act, q, slice(rank_).data(), slice(rank_).size());
      finish(act);
    }
  }
  void reduce_scatter(void*, const void* from, void* to, index_t count, reduced_element element,
                      reduction how) const override {
    const std::size_t width = bytes_of(element), bytes = static_cast<std::size_t>(count) * width;
    call act = begin("reduce_scatter", bytes, code(element, how));
    const auto* whole = static_cast<const std::byte*>(from);
    const std::size_t block = std::max(job_->options.largest_block / width, std::size_t{1}) * width;
    for (std::size_t at = 0; at < bytes; at += block) {
      const std::size_t length = std::min(block, bytes - at);
      const auto slice = [&](int q) { return std::span(whole + part_bytes(q, bytes) + at, length); };
      reduce_part(act, slice(rank_), slice, static_cast<std::byte*>(to) + at, element, how);
    }
  }
  void all_gather(void*, const void* from, void* to, std::size_t bytes) const override {
    call act = begin("all_gather", bytes, 0);
    for (int q = 0; q < size(); ++q)
      if (q != rank_) receive_bytes(act, q, part(to, q, bytes), bytes);
    for (int q = 0; q < size(); ++q)
      if (q != rank_) send_bytes(act, q, static_cast<const std::byte*>(from), bytes);
    copy(part(to, rank_, bytes), from, bytes);
    finish(act);
  }
  void all_to_all(void*, const void* from, void* to, std::size_t bytes) const override {
    call act = begin("all_to_all", bytes, 0);
    const auto of = [&](int q) { return static_cast<const std::byte*>(from) + part_bytes(q, bytes); };
    for (int q = 0; q < size(); ++q)
      if (q != rank_) receive_bytes(act, q, part(to, q, bytes), bytes);
    for (int q = 0; q < size(); ++q)
      if (q != rank_) send_bytes(act, q, of(q), bytes);
    copy(part(to, rank_, bytes), of(rank_), bytes);
    finish(act);
  }
  void broadcast(void*, void* data, std::size_t bytes, int root) const override {
    call act = begin("broadcast", bytes, root);
    auto* all = static_cast<std::byte*>(data);
    if (rank_ != root) receive_bytes(act, root, all, bytes);
    for (int q = 0; q < size(); ++q)
      if (rank_ == root && q != root) send_bytes(act, q, all, bytes);
    finish(act);
  }
  void barrier() const override { begin("barrier", 0, 0); }

  void exchange(void* stream, std::span<const outgoing_message> out,
                std::span<const incoming_message> in) const override {
    transfer(*this, out, in).finish(stream);
  }
  std::unique_ptr<comm_transfer> begin_exchange(void*, std::span<const outgoing_message> out,
                                                std::span<const incoming_message> in) const override {
    return std::make_unique<transfer>(*this, out, in);
  }

  // Nothing of MPI is asked: a group is a list of ranks, and a number that sets its messages apart. The ranks
  // of a group agree on numbers that none of them has seen.
  std::unique_ptr<comm_engine> split(int color, int key) const override {
    const std::array<int, 3> mine{color, key, job_->groups};
    std::vector<std::array<int, 3>> all(members_.size());
    all_gather(nullptr, mine.data(), all.data(), sizeof mine);
    std::vector<int> colors, ranks;
    int number = 0;
    for (int q = 0; q < size(); ++q) {
      const auto& [its_color, its_key, its_groups] = all[static_cast<std::size_t>(q)];
      colors.push_back(its_color);
      number = std::max(number, its_groups);
      if (its_color == color) ranks.push_back(q);
    }
    std::stable_sort(ranks.begin(), ranks.end(), [&](int a, int b) {
      return all[static_cast<std::size_t>(a)][1] < all[static_cast<std::size_t>(b)][1];
    });
    std::sort(colors.begin(), colors.end());
    colors.erase(std::unique(colors.begin(), colors.end()), colors.end());
    job_->groups = number + static_cast<int>(colors.size());
    number += static_cast<int>(std::lower_bound(colors.begin(), colors.end(), color) - colors.begin());
    const int place = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
    for (int& q : ranks) q = world(q);
    return std::make_unique<mpi_rank>(job_, std::move(ranks), place, number);
  }

  void abort(const std::string& reason) const override {
    if (job_->stopped) return;
    job_->tell(reason);
    job_->stop(reason);
  }

 private:
  enum class kind { messages = 1, headers, parts };

  // One call of a verb: what it waits for.
  struct call {
    struct wait {
      int peer;
      bool receives;
      std::size_t bytes;
    };
    const char* verb = "";
    int tag = 0;
    std::vector<MPI_Request> requests = {};
    std::vector<wait> waits = {};
  };

  // What every rank tells the others before a collective, so that different calls meet in a sentence.
  struct header {
    char verb[16] = {};
    std::uint64_t bytes = 0, count = 0;  // of each rank's part; of collectives so far
    std::int64_t detail = 0;             // code() of a reduction, or the root

    std::string words() const {
      const std::string call = std::string(verb) + " of " + std::to_string(bytes) + " bytes";
      if (std::strncmp(verb, "broadcast", sizeof verb) == 0)
        return call + " from rank " + std::to_string(detail);
      if (detail == 0) return call;
      return call + ", " + name_of(static_cast<reduction>((detail - 1) % 4)) + " of " +
             name_of(static_cast<reduced_element>((detail - 1) / 4));
    }
    friend bool operator==(const header& a, const header& b) { return std::memcmp(&a, &b, sizeof a) == 0; }
  };

  int world(int rank) const { return members_[static_cast<std::size_t>(rank)]; }
  int tag(kind of) const { return group_ * 4 + static_cast<int>(of); }
  static std::int64_t code(reduced_element element, reduction how) {
    return 1 + static_cast<int>(element) * 4 + static_cast<int>(how);
  }
  static std::size_t part_bytes(int rank, std::size_t bytes) {
    return static_cast<std::size_t>(rank) * bytes;
  }
  static std::byte* part(void* whole, int rank, std::size_t bytes) {
    return static_cast<std::byte*>(whole) + part_bytes(rank, bytes);
  }
  static void copy(void* to, const void* from, std::size_t bytes) {
    if (to != from && bytes > 0) std::memcpy(to, from, bytes);
  }

  // ---- sentences
  // -----------------------------------------------------------------------------------------------
  std::string who() const {
    const std::string named = "rank " + std::to_string(rank_) + " of " + std::to_string(size());
    const bool whole = size() == job_->size;
    return "mpi: " + named + (whole ? "" : " (" + std::to_string(job_->rank) + " of all)");
  }
  static std::string unexpected(std::size_t expected, int peer, std::size_t found) {
    return "expects " + std::to_string(expected) + " bytes from rank " + std::to_string(peer) +
           " in exchange, which sends " + std::to_string(found);
  }
  // The others are told while this call's arrays still exist: MPI may move data into them meanwhile. Nothing
  // that is raised here is followed by a call of MPI.
  [[noreturn]] void give_up(const call&, const std::string& what) const {
    const std::string sentence = who() + " " + what;
    abort(sentence);
    raise(sentence);
  }
  [[noreturn]] void stopped(const call& act) const {
    raise(who() + " is stopped in " + act.verb + ": " + job_->why());
  }
  void sound(const call& act, int answer, int peer) const {
    if (answer == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(answer, text, &length);
    give_up(act, "fails in " + std::string(act.verb) + " with rank " + std::to_string(peer) + ": " +
                     std::string(text, static_cast<std::size_t>(length)));
  }

  // ---- transfers
  // ----------------------------------------------------------------------------------------------- In pieces
  // that MPI can count; both sides cut alike.
  template <class Transfer>
  void in_pieces(std::size_t bytes, Transfer&& transfer) const {
    std::size_t at = 0;
    do {
      const std::size_t piece = std::min(bytes - at, job_->options.largest_message);
      transfer(at, static_cast<int>(piece));
      at += piece;
    } while (at < bytes);
  }
  void receive_bytes(call& act, int peer, std::byte* data, std::size_t bytes) const {
    in_pieces(bytes, [&](std::size_t at, int piece) {
      act.waits.push_back({peer, true, static_cast<std::size_t>(piece)});
      sound(act,
            MPI_Irecv(data + at, piece, MPI_BYTE, world(peer), act.tag, job_->comm,
                      &act.requests.emplace_back()),
            peer);
    });
  }
  void send_bytes(call& act, int peer, const std::byte* data, std::size_t bytes) const {
    in_pieces(bytes, [&](std::size_t at, int piece) {
      act.waits.push_back({peer, false, static_cast<std::size_t>(piece)});
      sound(act,
            MPI_Isend(data + at, piece, MPI_BYTE, world(peer), act.tag, job_->comm,
                      &act.requests.emplace_back()),
            peer);
    });
  }

  // Until all transfers of a call are done. A wait is a poll, so that a rank which is dead or does not come
  // ends in a sentence; cores are left to others after a while.
  void finish(call& act) const {
    const auto begin = std::chrono::steady_clock::now();
    std::size_t first = 0;  // the first that is not done
    for (int round = 0; first < act.requests.size(); ++round) {
      int done = 0;
      MPI_Status found;
      const int answer = MPI_Test(&act.requests[first], &done, &found);
      const call::wait& wait = act.waits[first];
      if (answer != MPI_SUCCESS) {
        int truncated = 0;
        MPI_Error_class(answer, &truncated);
        if (truncated == MPI_ERR_TRUNCATE)
          give_up(act, "expects " + std::to_string(wait.bytes) + " bytes from rank " +
                           std::to_string(wait.peer) + " in " + act.verb + ", which sends more");
        sound(act, answer, wait.peer);
      }
      if (done != 0) {
        int bytes = 0;
        if (wait.receives) MPI_Get_count(&found, MPI_BYTE, &bytes);
        if (wait.receives && static_cast<std::size_t>(bytes) != wait.bytes)
          give_up(act, unexpected(wait.bytes, wait.peer, static_cast<std::size_t>(bytes)));
        ++first;
        round = 0;
        continue;
      }
      if (round < 100) {
        std::this_thread::yield();
        continue;
      }
      if (!job_->stopped) job_->listen();
      if (job_->stopped) stopped(act);
      if (std::chrono::steady_clock::now() - begin >= job_->options.limit) {
        char seconds[32];
        std::snprintf(seconds, sizeof seconds, "%g",
                      std::chrono::duration<double>(job_->options.limit).count());
        give_up(act, "waits in " + std::string(act.verb) + " for rank " + std::to_string(wait.peer) +
                         (wait.receives ? " to send " : " to take ") + std::to_string(wait.bytes) +
                         " bytes since " + seconds + " s");
      }
      std::this_thread::sleep_for(std::chrono::microseconds(std::min(round / 2, 200)));
    }
    act.requests.clear();
    act.waits.clear();
  }

  // Opens a collective: every rank tells every other which.
  call begin(const char* verb, std::size_t bytes, std::int64_t detail) const {
    call act{.verb = verb, .tag = tag(kind::headers)};
    if (job_->stopped) stopped(act);
    header mine;
    std::snprintf(mine.verb, sizeof mine.verb, "%s", verb);
    mine.bytes = bytes;
    mine.count = collectives_++;
    mine.detail = detail;
    std::vector<header> theirs(members_.size());
    for (int q = 0; q < size(); ++q)
      if (q != rank_)
        receive_bytes(act, q, reinterpret_cast<std::byte*>(&theirs[static_cast<std::size_t>(q)]),
                      sizeof mine);
    for (int q = 0; q < size(); ++q)
      if (q != rank_) send_bytes(act, q, reinterpret_cast<const std::byte*>(&mine), sizeof mine);
    finish(act);
    for (int q = 0; q < size(); ++q)
      if (q != rank_ && theirs[static_cast<std::size_t>(q)] != mine)
        give_up(act, "calls " + mine.words() + ", rank " + std::to_string(q) + " " +
                         theirs[static_cast<std::size_t>(q)].words());
    act.tag = tag(kind::parts);
    return act;
  }

  // What it sends to itself has arrived when it is made.
  class transfer final : public comm_transfer {
   public:
    transfer(const mpi_rank& rank, std::span<const outgoing_message> out,
             std::span<const incoming_message> in)
        : rank_(rank), act_{.verb = "exchange", .tag = rank.tag(kind::messages)} {
      if (rank_.job_->stopped) rank_.stopped(act_);
      const int own = rank_.rank_;
      for (const incoming_message& m : in)
        if (m.peer != own) rank_.receive_bytes(act_, m.peer, m.data, m.bytes);
      for (const outgoing_message& m : out)
        if (m.peer != own) rank_.send_bytes(act_, m.peer, m.data, m.bytes);
      auto sent = out.begin();
      const auto to_itself = [&] {
        return sent = std::find_if(sent, out.end(), [&](const outgoing_message& m) { return m.peer == own; });
      };
      for (const incoming_message& m : in) {
        if (m.peer != own) continue;
        if (to_itself() == out.end())
          rank_.give_up(act_, "receives more messages of its own than it sends itself in exchange");
        if (sent->bytes != m.bytes) rank_.give_up(act_, unexpected(m.bytes, own, sent->bytes));
        copy(m.data, sent->data, m.bytes);
        ++sent;
      }
      if (to_itself() != out.end())
        rank_.give_up(act_, "sends more messages to itself than it receives of its own in exchange");
    }
    // MPI may still move data of an exchange that something else has ended: no rank may wait for this one.
    ~transfer() override {
      if (!act_.requests.empty()) rank_.abort(rank_.who() + " has left an exchange");
    }

    void finish(void*) override { rank_.finish(act_); }

   private:
    const mpi_rank& rank_;
    call act_;
  };

  // This rank's part of everyone's data, reduced in rank order into `result`.
  template <class Part>
  void reduce_part(call& act, std::span<const std::byte> mine, Part&& part_of, std::byte* result,
                   reduced_element element, reduction how) const {
    const std::size_t bytes = mine.size();
    if (room_.size() < members_.size() * bytes) room_.resize(members_.size() * bytes);
    std::vector<const void*> inputs;
    for (int q = 0; q < size(); ++q) {
      std::byte* place = room_.data() + part_bytes(q, bytes);
      inputs.push_back(q == rank_ ? mine.data() : place);
      if (q != rank_) receive_bytes(act, q, place, bytes);
    }
    for (int q = 0; q < size(); ++q)
      if (q != rank_) send_bytes(act, q, part_of(q).data(), part_of(q).size());
    finish(act);
    void* output = result;
    reduce_in_order(inputs, {&output, 1}, {0, static_cast<index_t>(bytes / bytes_of(element))}, element, how);
  }

  std::shared_ptr<mpi_job> job_;
  std::vector<int> members_;  // in MPI's numbers
  int rank_, group_;
  // Collectives of one group come one after the other.
  mutable std::uint64_t collectives_ = 0;
  mutable std::vector<std::byte> room_;
};

}  // namespace detail

/// The process's place among those that MPI has started. One object, for as long as ranks talk.
///
///     const mpi_ranks ranks;
///     ranks.run([&](const any_communicator& comm) { ... comm.all_reduce(ctx, data, reduction::sum); });
///
/// Sums are taken in rank order, as those of threads. Whoever waits longer than the limit raises a sentence
/// with rank, verb and peer and tells the others, who raise it too. A process that has raised must end with
/// an error: the launcher then ends those that cannot hear. Point-to-point calls of several threads may go on
/// beside each other, collectives of one group come one after the other.
class mpi_ranks {
 public:
  explicit mpi_ranks(const mpi_options& options = {}) : job_(std::make_shared<detail::mpi_job>()) {
    int provided = 0, begun = 0;
    MPI_Initialized(&begun);
    if (begun != 0) raise("mpi: was initialised before; make one mpi_ranks and nothing else that does so");
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS)
      raise("mpi: cannot be initialised");
    if (provided < MPI_THREAD_MULTIPLE)
      raise("mpi: lets one thread call at a time, expected MPI_THREAD_MULTIPLE");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    job_->options = options;
    if (MPI_Comm_dup(MPI_COMM_WORLD, &job_->comm) != MPI_SUCCESS) raise("mpi: cannot copy the world");
    MPI_Comm_set_errhandler(job_->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(job_->comm, &job_->rank);
    MPI_Comm_size(job_->comm, &job_->size);
    std::vector<int> members(static_cast<std::size_t>(job_->size));
    std::iota(members.begin(), members.end(), 0);
    world_ = any_communicator{std::make_shared<detail::mpi_rank>(job_, std::move(members), job_->rank, 0)};
  }
  mpi_ranks(const mpi_ranks&) = delete;
  mpi_ranks& operator=(const mpi_ranks&) = delete;

  /// Leaves together with the other ranks. After a failure it leaves at once and without MPI's farewell,
  /// which would wait for all; the launcher takes a process that does so for a failed one.
  ~mpi_ranks() {
    if (job_->stopped || std::uncaught_exceptions() > 0) return;
    if (attempt([&] { world_.barrier(); }).good()) MPI_Finalize();
  }

  const any_communicator& world() const { return world_; }

  /// Runs work(communicator of this rank). What it throws is told to the other ranks, and thrown here.
  template <class Work>
  void run(Work&& work) const {
#if defined(DSV3_NO_EXCEPTIONS)
    work(world_);
#else
    try {
      work(world_);
    } catch (const std::exception& failure) {
      world_.engine()->abort(failure.what());
      throw;
    } catch (...) {
      world_.engine()->abort("no reason was given");
      throw;
    }
#endif
  }

 private:
  std::shared_ptr<detail::mpi_job> job_;
  any_communicator world_;
};

}  // namespace dsv3::inline DSV3_ABI
