// SPDX-License-Identifier: MIT
// The communicator concept: seven verbs, each taking the context first.
#pragma once

#include <dsv3/exec/context.hpp>
#include <dsv3/tensor/view.hpp>

#include <concepts>

namespace dsv3::inline DSV3_ABI {

enum class reduction { sum, max, min };

/// Ranks that exchange data. Collective calls are made by every rank in the same order.
///   all_reduce     data [n]                  every rank ends with the reduction of all ranks' data
///   reduce_scatter from [size * n], to [n]   rank r ends with the reduction of part r
///   all_gather     from [n], to [size * n]   every rank ends with all parts in rank order
///   all_to_all     from, to [size * n]       part r of `from` goes to rank r; part r of `to` came from it
///   broadcast      data [n], root            every rank ends with the root's data
///   send, receive  data [n], peer            in matching pairs
template <class Communicator, class Ctx, class T>
concept communicates = requires(const Communicator& comm, Ctx& ctx, view<T, 1> data, view<const T, 1> from,
                                int peer) {
  { comm.rank() } -> std::same_as<int>;
  { comm.size() } -> std::same_as<int>;
  comm.all_reduce(ctx, data, reduction::sum);
  comm.reduce_scatter(ctx, from, data, reduction::sum);
  comm.all_gather(ctx, from, data);
  comm.all_to_all(ctx, from, data);
  comm.broadcast(ctx, data, peer);
  comm.send(ctx, from, peer);
  comm.receive(ctx, data, peer);
};

template <class Communicator>
concept communicator = communicates < Communicator,
        cpu_context<>,
float > ;

}  // namespace dsv3::inline DSV3_ABI
