// SPDX-License-Identifier: MIT
// What the ranks of a run have learned, put together in one state and dealt out again: to other ranks, if
// need be. Files are written from that one state, so they do not know how many ranks there were.
#pragma once

#include <dsv3/train/state.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace dsv3::inline DSV3_ABI {

namespace detail {

/// A part of a tensor that some rank keeps: which in the order of the whole network's contents, and where.
struct part_entry {
  std::int64_t tensor = 0, begin = 0, count = 0;
};

/// Walks over every part of every rank, on rank 0 and on the rank that keeps it: to rank 0, or from it.
template <execution_context Ctx, precision P, layout_policy L, layout_policy M>
class part_exchange {
 public:
  enum class way { to_whole, from_whole };

  part_exchange(Ctx& ctx, training_state<P, L>& own, training_state<P, M>* whole, way direction)
      : ctx_(ctx), own_(own), whole_(whole), direction_(direction), all_(own.ranks.all) {
    if ((all_.rank() == 0) != (whole != nullptr))
      raise("training state: rank " + std::to_string(all_.rank()) + (whole ? " has" : " lacks") +
            " a state of the whole network, expected one on rank 0 alone");
    model_config config = own.masters.config;
    config.held.clear(), config.expert_ranks = 1, config.expert_rank = 0;
    model_tensors<float> network;
    network.config = config;
    std::map<std::string, std::int64_t> number;
    for_each_field([&](const std::string& name, const shape&,
                       auto&) { number.emplace(name, static_cast<std::int64_t>(number.size())); },
                   network);
    for (const parameter<P>& row : own.parameters)
      parts_.push_back({number.at(row.name), row.first + row.part.begin(), row.part.count()});
  }

  void run() {
    if (whole_ == nullptr) return with_zero();
    for (std::size_t i = 0; i < parts_.size(); ++i) locally(own_.parameters[i], parts_[i]);
    for (int rank = 1; rank < all_.size(); ++rank) with(rank);
  }

 private:
  void with_zero() {
    const auto count = static_cast<std::int64_t>(parts_.size());
    all_.send(ctx_, view<const std::int64_t, 1>{&count, 1}, 0);
    all_.send(ctx_, view<const part_entry, 1>{parts_.data(), count}, 0);
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      const parameter<P>& row = own_.parameters[i];
      pass(0, {row.p, row.m, row.v}, direction_ == way::to_whole);
    }
  }
  void with(int rank) {
    std::int64_t count = 0;
    all_.receive(ctx_, view<std::int64_t, 1>{&count, 1}, rank);
    std::vector<part_entry> parts(static_cast<std::size_t>(count));
    all_.receive(ctx_, view<part_entry, 1>{parts.data(), count}, rank);
    for (const part_entry& part : parts) pass(rank, there(part), direction_ == way::from_whole);
  }

  struct three {
    view<master<P>, 1> p;
    view<moment<P>, 1> m, v;
  };
  three there(const part_entry& part) const {
    const parameter<P>& row = whole_->parameters.at(static_cast<std::size_t>(part.tensor));
    const auto of = [&](auto all) { return all.rows(part.begin, part.begin + part.count); };
    return {of(row.p), of(row.m), of(row.v)};
  }
  void pass(int peer, const three& values, bool out) {
    if (values.p.empty()) return;
    std::array<outgoing_message, 3> sent;
    std::array<incoming_message, 3> received;
    std::size_t i = 0;
    const auto message = [&](auto view) {
      auto* data = reinterpret_cast<std::byte*>(view.data());
      const std::size_t bytes = static_cast<std::size_t>(view.size()) * sizeof(*view.data());
      sent[i] = {peer, data, bytes};
      received[i++] = {peer, data, bytes};
    };
    message(values.p), message(values.m), message(values.v);
    if (out)
      all_.exchange(ctx_, sent, {});
    else
      all_.exchange(ctx_, {}, received);
  }
  void locally(const parameter<P>& row, const part_entry& part) {
    const three to = there(part);
    const auto copy = [&](auto mine, auto whole) {
      if (direction_ == way::to_whole)
        std::copy_n(mine.data(), mine.size(), whole.data());
      else
        std::copy_n(whole.data(), mine.size(), mine.data());
    };
    copy(row.p, to.p), copy(row.m, to.m), copy(row.v, to.v);
  }

  Ctx& ctx_;
  training_state<P, L>& own_;
  training_state<P, M>* whole_;
  way direction_;
  const any_communicator& all_;
  std::vector<part_entry> parts_;
};

}  // namespace detail

/// Brings what all ranks keep to `whole`, a state of one rank with the whole network, which rank 0 has and
/// the others give as null. Collective; the states lie in the host's memory.
template <execution_context Ctx, precision P, layout_policy L, layout_policy M>
void collect_state(Ctx& ctx, training_state<P, L>& own, training_state<P, M>* whole) {
  using parts = detail::part_exchange<Ctx, P, L, M>;
  synchronize(ctx);
  parts{ctx, own, whole, parts::way::to_whole}.run();
  if (whole == nullptr) return;
  whole->progress = own.progress;
  std::copy_n(own.routing.bias.data(), own.routing.bias.size(), whole->routing.bias.data());
  std::copy_n(own.routing.load.data(), own.routing.load.size(), whole->routing.load.data());
  for (const parameter<P>& row : whole->parameters) adopt_master(ctx, row, own.masters.config.recipe);
}

/// The other way: every rank ends with its parts, the weights that forward reads, and rank 0's progress.
template <execution_context Ctx, precision P, layout_policy L, layout_policy M>
void spread_state(Ctx& ctx, training_state<P, M>* whole, training_state<P, L>& own) {
  using parts = detail::part_exchange<Ctx, P, L, M>;
  prepare_state(ctx, own);
  synchronize(ctx);
  parts{ctx, own, whole, parts::way::from_whole}.run();
  if (whole != nullptr) {
    own.progress = whole->progress;
    std::copy_n(whole->routing.bias.data(), own.routing.bias.size(), own.routing.bias.data());
  }
  const any_communicator& all = own.ranks.all;
  all.broadcast(ctx, own.routing.bias.flat(), 0);
  all.broadcast(ctx, view<training_progress, 1>{&own.progress, 1}, 0);
  for (const parameter<P>& row : own.parameters) {
    adopt_master(ctx, row, own.masters.config.recipe);
    gather_weights(ctx, own.ranks, row, own.masters.config.recipe);
  }
}

}  // namespace dsv3::inline DSV3_ABI
