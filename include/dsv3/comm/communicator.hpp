// SPDX-License-Identifier: MIT
// The communicator concept: eight verbs, each taking the context first.
#pragma once

#include <dsv3/exec/context.hpp>
#include <dsv3/tensor/view.hpp>

#include <concepts>
#include <cstddef>
#include <span>

namespace dsv3::inline DSV3_ABI {

enum class reduction { sum, max, min };

/// One side of a transfer between two ranks. Messages of a pair of ranks arrive in the order of the lists.
struct outgoing_message {
  int peer = 0;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
};
struct incoming_message {
  int peer = 0;
  std::byte* data = nullptr;
  std::size_t bytes = 0;
};

/// Ranks that exchange data. Collective calls are made by every rank in the same order.
///   all_reduce     data [n]                  every rank ends with the reduction of all ranks' data
///   reduce_scatter from [size * n], to [n]   rank r ends with the reduction of part r
///   all_gather     from [n], to [size * n]   every rank ends with all parts in rank order
///   all_to_all     from, to [size * n]       part r of `from` goes to rank r; part r of `to` came from it
///   broadcast      data [n], root            every rank ends with the root's data
///   send, receive  data [n], peer            in matching pairs
///   exchange       messages out and in       all of them at once, so that no order of them can block; for
///                                            parts of different sizes, and for pairs that send both ways
/// Sums are taken in rank order, so that the same ranks give the same bits whatever carries the data; only an
/// engine that says otherwise (NCCL) has an order of its own, the same from run to run.
template <class Communicator, class Ctx, class T>
concept communicates = requires(const Communicator& comm, Ctx& ctx, view<T, 1> data, view<const T, 1> from,
                                int peer, std::span<const outgoing_message> out,
                                std::span<const incoming_message> in) {
  { comm.rank() } -> std::same_as<int>;
  { comm.size() } -> std::same_as<int>;
  comm.all_reduce(ctx, data, reduction::sum);
  comm.reduce_scatter(ctx, from, data, reduction::sum);
  comm.all_gather(ctx, from, data);
  comm.all_to_all(ctx, from, data);
  comm.broadcast(ctx, data, peer);
  comm.send(ctx, from, peer);
  comm.receive(ctx, data, peer);
  comm.exchange(ctx, out, in);
};

template <class Communicator>
concept communicator = communicates < Communicator,
        cpu_context<>,
float > ;

}  // namespace dsv3::inline DSV3_ABI
