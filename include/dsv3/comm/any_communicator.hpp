// SPDX-License-Identifier: MIT
// A communicator whose engine is chosen at run time, so that one program serves every number of ranks.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/comm/engine.hpp>
#include <dsv3/comm/journal.hpp>
#include <dsv3/exec/measure.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

namespace dsv3::inline DSV3_ABI {

/// The second half of an exchange; empty where nothing is under way.
class pending_exchange {
 public:
  pending_exchange() = default;

  template <class Ctx>
  void finish([[maybe_unused]] Ctx& ctx) {
    if (!journal_) return;
    void* stream = nullptr;
    if constexpr (requires { ctx.stream; }) stream = ctx.stream;
    if (transfer_) transfer_->finish(stream);
    transfer_.reset();
    std::exchange(journal_, nullptr)->end(number_);
  }

 private:
  friend class any_communicator;
  pending_exchange(std::shared_ptr<const comm_engine> engine, std::unique_ptr<comm_transfer> transfer,
                   std::shared_ptr<comm_journal> journal, std::uint64_t number)
      : engine_(std::move(engine)),
        transfer_(std::move(transfer)),
        journal_(std::move(journal)),
        number_(number) {}

  std::shared_ptr<const comm_engine> engine_;  // the transfer is its, and ends before it
  std::unique_ptr<comm_transfer> transfer_;
  std::shared_ptr<comm_journal> journal_;
  std::uint64_t number_ = 0;
};

/// Ranks behind an engine; without one, a single rank. Copies share the engine; they and the groups split
/// from them share the journal of what this rank did last.
class any_communicator {
 public:
  any_communicator() = default;
  explicit any_communicator(std::shared_ptr<const comm_engine> engine)
      : any_communicator(std::move(engine), std::make_shared<comm_journal>()) {}

  int rank() const { return engine_ ? engine_->rank() : 0; }
  int size() const { return engine_ ? engine_->size() : 1; }
  const char* name() const { return engine_ ? engine_->name() : "solo"; }
  const comm_engine* engine() const { return engine_.get(); }
  comm_journal* journal() const { return journal_.get(); }  // null where there is no engine

  template <class Ctx, class T>
  void all_reduce(Ctx& ctx, view<T, 1> data, reduction how) const {
    if (!acts<Ctx>() || data.empty()) return;
    noted("all_reduce", bytes(data), -1, [&] {
      engine_->all_reduce(stream_of(ctx), data.data(), data.size(), reduced_element_of<T>(), how);
    });
  }
  template <class Ctx, class T>
  void reduce_scatter(Ctx& ctx, view<const T, 1> from, view<T, 1> to, reduction how) const {
    parts("reduce_scatter", from.size(), to.size());
    if (!computes<Ctx> || to.empty()) return;
    if (size() == 1) return alone(ctx, from, to);
    noted("reduce_scatter", bytes(to), -1, [&] {
      engine_->reduce_scatter(stream_of(ctx), from.data(), to.data(), to.size(), reduced_element_of<T>(),
                              how);
    });
  }
  template <class Ctx, class T>
  void all_gather(Ctx& ctx, view<const T, 1> from, view<T, 1> to) const {
    parts("all_gather", to.size(), from.size());
    if (!computes<Ctx> || from.empty()) return;
    if (size() == 1) return alone(ctx, from, to);
    noted("all_gather", bytes(from), -1,
          [&] { engine_->all_gather(stream_of(ctx), from.data(), to.data(), bytes(from)); });
  }
  template <class Ctx, class T>
  void all_to_all(Ctx& ctx, view<const T, 1> from, view<T, 1> to) const {
    if (from.size() != to.size() || from.size() % size() != 0)
      raise("all_to_all: from " + std::to_string(from.size()) + " to " + std::to_string(to.size()) +
            " elements, expected as many, and a multiple of the " + std::to_string(size()) + " ranks");
    if (!computes<Ctx> || from.empty()) return;
    if (size() == 1) return alone(ctx, from, to);
    if (from.data() == to.data()) raise("all_to_all: from and to are the same array, expected two");
    const std::size_t part = bytes(from) / static_cast<std::size_t>(size());
    noted("all_to_all", part, -1, [&] { engine_->all_to_all(stream_of(ctx), from.data(), to.data(), part); });
  }
  template <class Ctx, class T>
  void broadcast(Ctx& ctx, view<T, 1> data, int root) const {
    known("broadcast", root);
    if (!acts<Ctx>() || data.empty()) return;
    noted("broadcast", bytes(data), root,
          [&] { engine_->broadcast(stream_of(ctx), data.data(), bytes(data), root); });
  }
  template <class Ctx, class T>
  void send(Ctx& ctx, view<const T, 1> data, int peer) const {
    other("send", peer);
    const outgoing_message out{peer, reinterpret_cast<const std::byte*>(data.data()), bytes(data)};
    transfer(ctx, "send", peer, {&out, 1}, {});
  }
  template <class Ctx, class T>
  void receive(Ctx& ctx, view<T, 1> data, int peer) const {
    other("receive", peer);
    const incoming_message in{peer, reinterpret_cast<std::byte*>(data.data()), bytes(data)};
    transfer(ctx, "receive", peer, {}, {&in, 1});
  }
  /// A rank's messages to itself are allowed, in matching pairs.
  template <class Ctx>
  void exchange(Ctx& ctx, std::span<const outgoing_message> out, std::span<const incoming_message> in) const {
    for (const outgoing_message& m : out) known("exchange", m.peer);
    for (const incoming_message& m : in) known("exchange", m.peer);
    transfer(ctx, "exchange", -1, out, in);
  }
  /// The same in two halves: until what it answers is finished, messages stay as they are, and these ranks
  /// exchange no others with this one.
  template <class Ctx>
  pending_exchange begin_exchange(Ctx& ctx, std::span<const outgoing_message> out,
                                  std::span<const incoming_message> in) const {
    for (const outgoing_message& m : out) known("exchange", m.peer);
    for (const incoming_message& m : in) known("exchange", m.peer);
    if constexpr (computes<Ctx>)
      if (transfers(out, in)) {
        const std::uint64_t number = journal_->begin("exchange", bytes_of(out, in), size(), -1);
        return {engine_, engine_->begin_exchange(stream_of(ctx), out, in), journal_, number};
      }
    return {};
  }

  void barrier() const {
    if (size() > 1) noted("barrier", 0, -1, [&] { engine_->barrier(); });
  }
  /// The ranks of one color as a group, ordered by key. Collective.
  any_communicator split(int color, int key) const {
    if (color < 0) raise("split: found color " + std::to_string(color) + ", expected none below zero");
    if (!engine_) return *this;
    any_communicator group;
    noted("split", 0, -1, [&] { group = any_communicator{engine_->split(color, key), journal_}; });
    return group;
  }

 private:
  any_communicator(std::shared_ptr<const comm_engine> engine, std::shared_ptr<comm_journal> journal)
      : engine_(std::move(engine)), journal_(std::move(journal)) {}

  template <class Act>
  void noted(const char* op, std::size_t bytes, int peer, Act&& act) const {
    const std::uint64_t number = journal_->begin(op, bytes, size(), peer);
    act();
    journal_->end(number);
  }
  template <class Ctx>
  void transfer(Ctx& ctx, const char* op, int peer, std::span<const outgoing_message> out,
                std::span<const incoming_message> in) const {
    if constexpr (computes<Ctx>)
      if (transfers(out, in))
        noted(op, bytes_of(out, in), peer, [&] { engine_->exchange(stream_of(ctx), out, in); });
  }
  bool transfers(std::span<const outgoing_message> out, std::span<const incoming_message> in) const {
    if (out.empty() && in.empty()) return false;
    if (!engine_) raise("exchange: messages of one rank to itself need an engine, there is none");
    return true;
  }
  static std::size_t bytes_of(std::span<const outgoing_message> out, std::span<const incoming_message> in) {
    std::size_t bytes = 0;
    for (const outgoing_message& m : out) bytes += m.bytes;
    for (const incoming_message& m : in) bytes += m.bytes;
    return bytes;
  }
  template <class Ctx>
  bool acts() const {
    return computes<Ctx> && size() > 1;
  }
  template <class T>
  static std::size_t bytes(view<T, 1> data) {
    return static_cast<std::size_t>(data.size()) * sizeof(T);
  }
  template <class Ctx>
  void* stream_of(const Ctx& ctx) const {
    constexpr bool device = requires { ctx.stream; };
    if (engine_->on_device() != device)
      raise(std::string(engine_->name()) + ": carries " + (device ? "host" : "device") +
            " memory, the context works on " + (device ? "a GPU" : "the host"));
    if constexpr (device)
      return ctx.stream;
    else
      return nullptr;
  }
  // What is left of a collective among one rank: a copy, or nothing.
  template <class Ctx, class T>
  static void alone(const Ctx&, view<const T, 1> from, view<T, 1> to) {
    if (from.data() == to.data()) return;
    if constexpr (requires(Ctx ctx) { ctx.stream; })
      raise("a collective of one rank between two arrays of a GPU: copy them instead");
    else
      std::copy_n(from.data(), from.size(), to.data());
  }
  void parts(const char* verb, index_t whole, index_t part) const {
    if (whole != part * size())
      raise(std::string(verb) + ": " + std::to_string(whole) + " elements, expected " +
            std::to_string(size()) + " ranks times " + std::to_string(part));
  }
  void known(const char* verb, int rank) const {
    if (rank < 0 || rank >= size())
      raise(std::string(verb) + ": names rank " + std::to_string(rank) + ", there are " +
            std::to_string(size()));
  }
  void other(const char* verb, int peer) const {
    known(verb, peer);
    if (peer == rank()) raise(std::string(verb) + ": names rank " + std::to_string(peer) + ", itself");
  }

  std::shared_ptr<const comm_engine> engine_;
  std::shared_ptr<comm_journal> journal_;
};

static_assert(communicator<any_communicator>);

}  // namespace dsv3::inline DSV3_ABI
