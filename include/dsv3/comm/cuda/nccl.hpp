// SPDX-License-Identifier: MIT
// Ranks on GPUs, over NCCL: device memory, on the caller's streams; component dsv3::nccl. No nvcc is needed.
#pragma once

#include <dsv3/comm/any_communicator.hpp>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Which rank of how many this is, and how the ranks come to know each other.
struct nccl_options {
  int rank = 0, size = 1;
  /// Gives every rank the bytes that rank 0 has: what NCCL needs before ranks can talk. Any host communicator
  /// does (`shares_by`), as does comm/rendezvous.hpp; one rank needs none.
  std::function<void(std::span<std::byte>)> share = {};
  std::chrono::milliseconds limit = std::chrono::minutes(10);  // for meeting, and for work on a stream to end
};

/// An nccl_options::share over a communicator of hosts.
inline std::function<void(std::span<std::byte>)> shares_by(const any_communicator& host) {
  return [host](std::span<std::byte> bytes) {
    cpu_context<> ctx;
    host.broadcast(ctx, view<std::byte, 1>{bytes.data(), static_cast<index_t>(bytes.size())}, 0);
  };
}

namespace detail {

inline void require_cuda(cudaError_t answer, const char* what) {
  if (answer == cudaSuccess) return;
  (void)cudaGetLastError();
  raise(std::string("nccl: ") + what + ": " + cudaGetErrorString(answer));
}

// One of NCCL's communicators, and what was enqueued on it last. The mutex guards the handle, which the watch
// may abort at any time.
class nccl_group {
 public:
  nccl_group(int rank, int size, int world_rank, int world_size, std::chrono::milliseconds limit)
      : rank_(rank), size_(size), world_rank_(world_rank), whole_(size == world_size), limit_(limit) {
    require_cuda(cudaGetDevice(&device_), "which GPU is this");
    for (work& w : works_)
      require_cuda(cudaEventCreateWithFlags(&w.done, cudaEventDisableTiming), "an event cannot be made");
    require_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream cannot be made");
    require_cuda(cudaMalloc(&room_, static_cast<std::size_t>(2 * size) * sizeof(std::int32_t)),
                 "memory for barriers");
  }
  nccl_group(const nccl_group&) = delete;
  nccl_group& operator=(const nccl_group&) = delete;
  ~nccl_group() {
    leave();
    for (work& w : works_) cudaEventDestroy(w.done);
    cudaStreamDestroy(stream_);
    cudaFree(room_);
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  int device() const { return device_; }
  std::int32_t* room() const { return room_; }
  cudaStream_t stream() const { return stream_; }
  std::chrono::milliseconds limit() const { return limit_; }

  /// Makes the handle with begin(&handle) and waits until every rank has come.
  template <class Begin>
  void join(const char* verb, Begin&& begin) {
    std::unique_lock lock(mutex_);
    settle(lock, begin(&comm_), verb);
  }
  /// Makes it from a larger group's.
  void join(nccl_group& larger, int color, int key) {
    std::unique_lock lock(mutex_);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    larger.call("split", [&](ncclComm_t comm) { return ncclCommSplit(comm, color, key, &comm_, &config); });
    settle(lock, ncclInProgress, "split", &larger);
  }

  /// Has act(handle) done on the host.
  template <class Act>
  void call(const char* verb, Act&& act) {
    std::unique_lock lock(mutex_);
    go_on(verb);
    settle(lock, act(comm_), verb);
  }

  /// Has enqueue(handle) put work on the stream.
  template <class Enqueue>
  void run(const char* verb, std::size_t bytes, cudaStream_t stream, Enqueue&& enqueue) {
    std::unique_lock lock(mutex_);
    go_on(verb);
    settle(lock, enqueue(comm_), verb);
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    require_cuda(cudaStreamIsCapturing(stream, &capture), verb);
    if (capture != cudaStreamCaptureStatusNone) return;  // it runs when its recorder says so
    work& w = works_[at_++ % works_.size()];
    w.verb = verb, w.bytes = bytes, w.begun = std::chrono::steady_clock::now(), w.open = true;
    require_cuda(cudaEventRecord(w.done, stream), verb);
  }

  void stop(const std::string& why) {
    const std::lock_guard lock(mutex_);
    stop_locked(why);
  }
  /// Why it was stopped; empty while it was not.
  std::string reason() {
    const std::lock_guard lock(mutex_);
    return reason_;
  }

  /// The watch's round: whether NCCL has met an error, or work does not end.
  void look() {
    const std::lock_guard lock(mutex_);
    if (comm_ == nullptr || !reason_.empty()) return;
    ncclResult_t state = ncclSuccess;
    const ncclResult_t answer = ncclCommGetAsyncError(comm_, &state);
    if (answer != ncclSuccess) state = answer;
    if (state != ncclSuccess && state != ncclInProgress)
      return stop_locked(who() + " fails: " + words(state));
    for (work& w : works_) {
      if (!w.open) continue;
      w.open = cudaEventQuery(w.done) == cudaErrorNotReady;
      if (w.open && std::chrono::steady_clock::now() - w.begun > limit_)
        return stop_locked(who() + " waits since " + seconds() + " s for " + w.verb + " of " +
                           std::to_string(w.bytes) + " bytes to end");
    }
  }

  /// Waits for the group's own stream.
  void wait(const char* verb) {
    const auto begin = std::chrono::steady_clock::now();
    for (;;) {
      const cudaError_t answer = cudaStreamQuery(stream_);
      {
        const std::lock_guard lock(mutex_);
        go_on(verb);
        if (answer == cudaErrorNotReady && std::chrono::steady_clock::now() - begin > limit_) {
          stop_locked(who() + " waits in " + verb + " since " + seconds() + " s for the other ranks");
          go_on(verb);
        }
      }
      if (answer != cudaErrorNotReady) return require_cuda(answer, verb);
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

 private:
  struct work {
    cudaEvent_t done = nullptr;
    const char* verb = "";
    std::size_t bytes = 0;
    std::chrono::steady_clock::time_point begun;
    bool open = false;
  };

  std::string who() const {
    return "nccl: rank " + std::to_string(rank_) + " of " + std::to_string(size_) +
           (whole_ ? "" : " (" + std::to_string(world_rank_) + " of all)");
  }
  std::string seconds() const {
    char text[32];
    std::snprintf(text, sizeof text, "%g", std::chrono::duration<double>(limit_).count());
    return text;
  }
  std::string words(ncclResult_t answer) const {
    const char* last = comm_ != nullptr ? ncclGetLastError(comm_) : nullptr;
    std::string detail = last != nullptr ? last : "";
    while (!detail.empty() && detail.back() == '\n') detail.pop_back();
    return std::string(ncclGetErrorString(answer)) + (detail.empty() ? "" : ": " + detail);
  }

  void go_on(const char* verb) const {
    if (!reason_.empty()) raise(who() + " is stopped in " + verb + ": " + reason_);
  }
  void stop_locked(const std::string& why) {
    if (!reason_.empty()) return;
    reason_ = why.empty() ? "no reason was given" : why;
    if (comm_ != nullptr) ncclCommAbort(std::exchange(comm_, nullptr));
  }
  // Calls return before they are done; the answer is asked for until there is one. The handle of a part of a
  // `larger` group comes late, from a thread of NCCL's.
  void settle(std::unique_lock<std::mutex>& lock, ncclResult_t answer, const char* verb,
              nccl_group* larger = nullptr) {
    const auto begin = std::chrono::steady_clock::now();
    while (answer == ncclInProgress) {
      if (std::chrono::steady_clock::now() - begin > limit_) {
        stop_locked(who() + " waits in " + verb + " since " + seconds() + " s for the other ranks");
        raise(reason_);
      }
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      lock.lock();
      go_on(verb);
      if (larger != nullptr && __atomic_load_n(&comm_, __ATOMIC_ACQUIRE) == nullptr) {
        larger->call(verb, [](ncclComm_t) { return ncclSuccess; });  // which raises where that one is stopped
        larger->look();
        continue;
      }
      const ncclResult_t asked = ncclCommGetAsyncError(comm_, &answer);
      if (asked != ncclSuccess) answer = asked;
    }
    if (answer == ncclSuccess) return;
    stop_locked(who() + " fails in " + verb + ": " + words(answer));
    raise(reason_);
  }
  void leave() {
    std::unique_lock lock(mutex_);
    if (comm_ == nullptr) return;
    const auto begin = std::chrono::steady_clock::now();
    ncclResult_t answer = ncclCommFinalize(comm_);
    while (answer == ncclInProgress && std::chrono::steady_clock::now() - begin < limit_) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      if (ncclCommGetAsyncError(comm_, &answer) != ncclSuccess) break;
    }
    if (answer == ncclSuccess)
      ncclCommDestroy(comm_);
    else
      ncclCommAbort(comm_);
    comm_ = nullptr;
  }

  const int rank_, size_, world_rank_;
  const bool whole_;
  const std::chrono::milliseconds limit_;
  int device_ = 0;
  cudaStream_t stream_ = nullptr;
  std::int32_t* room_ = nullptr;
  std::mutex mutex_;
  ncclComm_t comm_ = nullptr;
  std::string reason_;
  std::array<work, 64> works_;
  std::size_t at_ = 0;
};

// Looks after all groups of a rank, in a thread of its own: when one of them fails, all end.
class nccl_watch {
 public:
  explicit nccl_watch(int device) : device_(device), thread_([this] { run(); }) {}
  ~nccl_watch() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  void add(const std::shared_ptr<nccl_group>& group) {
    const std::lock_guard lock(mutex_);
    groups_.push_back(group);
  }
  std::vector<std::shared_ptr<nccl_group>> groups() {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<nccl_group>> living;
    for (const auto& group : groups_)
      if (auto held = group.lock()) living.push_back(std::move(held));
    groups_.assign(living.begin(), living.end());
    return living;
  }

 private:
  void run() {
    cudaSetDevice(device_);
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;  // asking after events disturbs no recording
    cudaThreadExchangeStreamCaptureMode(&mode);
    for (std::unique_lock lock(mutex_); !ends_; wake_.wait_for(lock, std::chrono::milliseconds(50))) {
      lock.unlock();
      const std::vector<std::shared_ptr<nccl_group>> all = groups();
      for (const auto& group : all) {
        group->look();
        if (const std::string why = group->reason(); !why.empty())
          for (const auto& other : all) other->stop(why);
      }
      lock.lock();
    }
  }

  const int device_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ends_ = false;
  std::vector<std::weak_ptr<nccl_group>> groups_;
  std::thread thread_;  // last: it uses the others
};

class nccl_rank final : public comm_engine {
 public:
  nccl_rank(std::shared_ptr<nccl_watch> watch, std::shared_ptr<nccl_group> group, int world_rank,
            int world_size)
      : watch_(std::move(watch)),
        group_(std::move(group)),
        world_rank_(world_rank),
        world_size_(world_size) {}

  static std::unique_ptr<comm_engine> first(const nccl_options& options) {
    if (options.rank < 0 || options.rank >= options.size)
      raise("nccl: found rank " + std::to_string(options.rank) + " of " + std::to_string(options.size));
    ncclUniqueId id = {};
    if (options.rank == 0 && ncclGetUniqueId(&id) != ncclSuccess)
      raise(std::string("nccl: the ranks' number cannot be made: ") + ncclGetLastError(nullptr));
    if (options.share)
      options.share(std::as_writable_bytes(std::span(&id, 1)));
    else if (options.size > 1)
      raise("nccl: " + std::to_string(options.size) +
            " ranks need a way to share the first bytes, there is none");
    auto group =
        std::make_shared<nccl_group>(options.rank, options.size, options.rank, options.size, options.limit);
    group->join("the first meeting", [&](ncclComm_t* comm) {
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.blocking = 0;
      return ncclCommInitRankConfig(comm, options.size, id, options.rank, &config);
    });
    auto watch = std::make_shared<nccl_watch>(group->device());
    return made(std::move(watch), std::move(group), options.rank, options.size);
  }

  const char* name() const override { return "nccl"; }
  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  bool on_device() const override { return true; }

  void all_reduce(void* stream, void* data, index_t count, reduced_element element,
                  reduction how) const override {
    const auto n = static_cast<std::size_t>(count);
    run("all_reduce", n * bytes_of(element), stream, [&](ncclComm_t comm) {
      return ncclAllReduce(data, data, n, type(element), operation(how), comm, cuda_stream(stream));
    });
  }
  void reduce_scatter(void* stream, const void* from, void* to, index_t count, reduced_element element,
                      reduction how) const override {
    const auto n = static_cast<std::size_t>(count);
    run("reduce_scatter", n * bytes_of(element), stream, [&](ncclComm_t comm) {
      return ncclReduceScatter(from, to, n, type(element), operation(how), comm, cuda_stream(stream));
    });
  }
  void all_gather(void* stream, const void* from, void* to, std::size_t bytes) const override {
    run("all_gather", bytes, stream, [&](ncclComm_t comm) {
      return ncclAllGather(from, to, bytes, ncclUint8, comm, cuda_stream(stream));
    });
  }
  void all_to_all(void* stream, const void* from, void* to, std::size_t bytes) const override {
    std::vector<outgoing_message> out;
    std::vector<incoming_message> in;
    for (int q = 0; q < size(); ++q) {
      const std::size_t at = static_cast<std::size_t>(q) * bytes;
      out.push_back({q, static_cast<const std::byte*>(from) + at, bytes});
      in.push_back({q, static_cast<std::byte*>(to) + at, bytes});
    }
    transfer("all_to_all", stream, out, in);
  }
  void broadcast(void* stream, void* data, std::size_t bytes, int root) const override {
    run("broadcast", bytes, stream, [&](ncclComm_t comm) {
      return ncclBroadcast(data, data, bytes, ncclUint8, root, comm, cuda_stream(stream));
    });
  }
  void exchange(void* stream, std::span<const outgoing_message> out,
                std::span<const incoming_message> in) const override {
    transfer("exchange", stream, out, in);
  }
  std::unique_ptr<comm_transfer> begin_exchange(void* stream, std::span<const outgoing_message> out,
                                                std::span<const incoming_message> in) const override {
    auto aside = std::make_unique<side_transfer>(cuda_stream(stream), group_);
    transfer("exchange", group_->stream(), out, in);
    aside->begun();
    return aside;
  }
  void barrier() const override {
    all_reduce(group_->stream(), group_->room(), 1, reduced_element::int32, reduction::max);
    group_->wait("barrier");
  }

  std::unique_ptr<comm_engine> split(int color, int key) const override {
    // Rank and size of the group are the host's to know before NCCL makes it.
    std::vector<std::int32_t> all = ask({color, key});
    int place = 0, members = 0;
    for (int q = 0; q < size(); ++q) {
      const std::int32_t its_color = all[static_cast<std::size_t>(2 * q)];
      const std::int32_t its_key = all[static_cast<std::size_t>(2 * q + 1)];
      if (its_color != color) continue;
      ++members;
      if (its_key < key || (its_key == key && q < rank())) ++place;
    }
    auto child = std::make_shared<nccl_group>(place, members, world_rank_, world_size_, group_->limit());
    child->join(*group_, color, key);
    return made(watch_, std::move(child), world_rank_, world_size_);
  }

  void abort(const std::string& reason) const override {
    for (const auto& group : watch_->groups()) group->stop(reason);
    group_->stop(reason);
  }

 private:
  static std::unique_ptr<comm_engine> made(std::shared_ptr<nccl_watch> watch,
                                           std::shared_ptr<nccl_group> group, int world_rank,
                                           int world_size) {
    watch->add(group);
    auto rank = std::make_unique<nccl_rank>(std::move(watch), std::move(group), world_rank, world_size);
    rank->connect();
    return rank;
  }
  // What is put on the group's stream after all that the caller's has, and what that waits for again when it
  // is finished: a branch where a graph records both.
  class side_transfer final : public comm_transfer {
   public:
    side_transfer(cudaStream_t caller, std::shared_ptr<nccl_group> group) : group_(std::move(group)) {
      require_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "an event cannot be made");
      require_cuda(cudaEventRecord(event_, caller), "exchange");
      require_cuda(cudaStreamWaitEvent(group_->stream(), event_, 0), "exchange");
    }
    ~side_transfer() override { cudaEventDestroy(event_); }

    void begun() { require_cuda(cudaEventRecord(event_, group_->stream()), "exchange"); }
    void finish(void* stream) override {
      require_cuda(cudaStreamWaitEvent(cuda_stream(stream), event_, 0), "exchange");
    }

   private:
    std::shared_ptr<nccl_group> group_;
    cudaEvent_t event_ = nullptr;
  };
  static cudaStream_t cuda_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
  static ncclDataType_t type(reduced_element element) {
    switch (element) {
      case reduced_element::int32:
        return ncclInt32;
      case reduced_element::int64:
        return ncclInt64;
      case reduced_element::bf16:
        return ncclBfloat16;
      case reduced_element::float32:
        return ncclFloat32;
      default:
        return ncclFloat64;
    }
  }
  static ncclRedOp_t operation(reduction how) {
    return how == reduction::sum ? ncclSum : how == reduction::max ? ncclMax : ncclMin;
  }

  template <class Enqueue>
  void run(const char* verb, std::size_t bytes, void* stream, Enqueue&& enqueue) const {
    group_->run(verb, bytes, cuda_stream(stream), enqueue);
  }
  void transfer(const char* verb, void* stream, std::span<const outgoing_message> out,
                std::span<const incoming_message> in) const {
    std::size_t bytes = 0;
    for (const outgoing_message& m : out) bytes += m.bytes;
    run(verb, bytes, stream, [&](ncclComm_t comm) {
      ncclResult_t answer = ncclGroupStart();
      const auto keep = [&](ncclResult_t next) {
        if (answer == ncclSuccess || answer == ncclInProgress) answer = next;
      };
      for (const incoming_message& m : in)
        keep(ncclRecv(m.data, m.bytes, ncclUint8, m.peer, comm, cuda_stream(stream)));
      for (const outgoing_message& m : out)
        keep(ncclSend(m.data, m.bytes, ncclUint8, m.peer, comm, cuda_stream(stream)));
      const ncclResult_t ended = ncclGroupEnd();
      keep(ended);
      return answer;
    });
  }
  // Numbers of every rank's host.
  std::vector<std::int32_t> ask(std::array<std::int32_t, 2> mine) const {
    std::vector<std::int32_t> all(static_cast<std::size_t>(2 * size()));
    std::int32_t* room = group_->room();
    require_cuda(cudaMemcpyAsync(room + 2 * rank(), mine.data(), sizeof mine, cudaMemcpyHostToDevice,
                                 group_->stream()),
                 "numbers of a group");
    all_gather(group_->stream(), room + 2 * rank(), room, sizeof mine);
    group_->wait("split");
    require_cuda(cudaMemcpy(all.data(), room, all.size() * sizeof all[0], cudaMemcpyDeviceToHost),
                 "numbers of a group");
    return all;
  }
  // What NCCL would set up at the first use is set up now: later it could stand in the middle of a recording.
  void connect() const {
    barrier();
    all_to_all(group_->stream(), group_->room(), group_->room() + size(), sizeof(std::int32_t));
    group_->wait("the first exchange");
  }

  std::shared_ptr<nccl_watch> watch_;
  std::shared_ptr<nccl_group> group_;
  int world_rank_, world_size_;
};

}  // namespace detail

/// This process's, or this thread's, rank on the GPU that is current. Blocks until all ranks have come, or
/// raises after the limit. Calls enqueue on the context's stream and return; a thread watches over what was
/// enqueued and ends all groups when NCCL reports an error or work does not end within the limit, after which
/// every call raises. Sums are taken in NCCL's own order, and those of bf16 are rounded at each step of it:
/// the same from run to run with the same ranks, but not those of threads and MPI.
///
///     const any_communicator world = nccl_communicator({.rank = r, .size = n, .share = shares_by(host)});
inline any_communicator nccl_communicator(const nccl_options& options = {}) {
  return any_communicator{detail::nccl_rank::first(options)};
}

}  // namespace dsv3::inline DSV3_ABI
