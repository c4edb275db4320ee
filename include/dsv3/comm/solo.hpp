// SPDX-License-Identifier: MIT
// One rank: every collective is the identity.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/comm/communicator.hpp>

#include <string>

namespace dsv3::inline DSV3_ABI {

/// The communicator of a single process; a default for code that names none.
class solo {
 public:
  int rank() const { return 0; }
  int size() const { return 1; }

  template <class Ctx, class T>
  void all_reduce(Ctx&, view<T, 1>, reduction) const {}
  template <class Ctx, class T>
  void reduce_scatter(Ctx&, view<const T, 1> from, view<T, 1> to, reduction) const {
    copy("reduce_scatter", from, to);
  }
  template <class Ctx, class T>
  void all_gather(Ctx&, view<const T, 1> from, view<T, 1> to) const {
    copy("all_gather", from, to);
  }
  template <class Ctx, class T>
  void all_to_all(Ctx&, view<const T, 1> from, view<T, 1> to) const {
    copy("all_to_all", from, to);
  }
  template <class Ctx, class T>
  void broadcast(Ctx&, view<T, 1>, int root) const {
    expect_self("broadcast", root);
  }
  template <class Ctx, class T>
  void send(Ctx&, view<const T, 1>, int) const {
    raise("solo: send needs another rank, there is one");
  }
  template <class Ctx, class T>
  void receive(Ctx&, view<T, 1>, int) const {
    raise("solo: receive needs another rank, there is one");
  }
  template <class Ctx>
  void exchange(Ctx&, std::span<const outgoing_message> out, std::span<const incoming_message> in) const {
    if (!out.empty() || !in.empty()) raise("solo: exchange needs another rank, there is one");
  }

 private:
  static void expect_self(const char* verb, int root) {
    if (root != 0)
      raise(std::string("solo: ") + verb + " names rank " + std::to_string(root) + ", there is one rank");
  }
  template <class T>
  static void copy(const char* verb, view<const T, 1> from, view<T, 1> to) {
    if (from.size() != to.size())
      raise(std::string("solo: ") + verb + " from " + std::to_string(from.size()) + " to " +
            std::to_string(to.size()) + " elements");
    if (from.data() != to.data())
      for (index_t i = 0; i < from.size(); ++i) to(i) = from(i);
  }
};

static_assert(communicator<solo>);

}  // namespace dsv3::inline DSV3_ABI
