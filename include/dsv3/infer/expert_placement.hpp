// SPDX-License-Identifier: MIT
// Which expert lies in which slot of which GPU, given how many tokens each is expected to get: busy experts
// are there several times (EPLB, the published load balancer).
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>
#include <dsv3/base/requirements.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// The slots of one layer. GPUs have as many slots each, nodes as many GPUs; slots are numbered GPU by GPU.
struct expert_slots {
  index_t experts = 0;
  index_t groups = 1;  // of neighbouring experts, which node-limited routing wants on one node
  index_t slots = 0, nodes = 1, gpus = 1;

  index_t per_gpu() const { return slots / gpus; }
  index_t gpu_of(index_t slot) const { return slot / per_gpu(); }
  index_t node_of(index_t slot) const { return slot / (slots / nodes); }
  /// Whether whole groups can lie on nodes; otherwise the nodes are taken as one.
  bool by_nodes() const { return groups % nodes == 0; }

  status check() const {
    requirements need{"expert placement"};
    const bool counts = experts > 0 && groups > 0 && slots > 0 && nodes > 0 && gpus > 0;
    need.that(counts, "counts of at least 1 are expected",
              {{"experts", experts}, {"groups", groups}, {"slots", slots}, {"nodes", nodes}, {"GPUs", gpus}});
    if (!counts) return need.verdict();
    return need
        .that(experts % groups == 0, "groups of as many experts each are expected",
              {{"experts", experts}, {"groups", groups}})
        .that(gpus % nodes == 0, "nodes of as many GPUs each are expected",
              {{"GPUs", gpus}, {"nodes", nodes}})
        .that(slots % gpus == 0, "GPUs with as many slots each are expected",
              {{"slots", slots}, {"GPUs", gpus}})
        .that(slots >= experts, "a slot for every expert is expected",
              {{"slots", slots}, {"experts", experts}})
        .verdict();
  }
  /// Whether these are expected tokens of every expert.
  status check(std::span<const double> load) const {
    const bool counts =
        std::all_of(load.begin(), load.end(), [](double l) { return l >= 0 && std::isfinite(l); });
    return requirements{"expert placement"}
        .equal("the load", "entries", static_cast<index_t>(load.size()), "the layer", experts)
        .that(counts, "loads that are finite and not negative are expected")
        .verdict();
  }
};

/// Experts in slots.
struct expert_placement {
  expert_slots shape = {};
  std::vector<index_t> expert_of = {};              // by slot
  std::vector<std::vector<index_t>> slots_of = {};  // by expert: its replicas in the order they were made

  index_t replicas(index_t expert) const {
    return static_cast<index_t>(slots_of[static_cast<std::size_t>(expert)].size());
  }
  /// The slot that token number `turn` of an expert goes to: replicas take turns.
  index_t slot_of(index_t expert, index_t turn) const {
    return slots_of[static_cast<std::size_t>(expert)][static_cast<std::size_t>(turn % replicas(expert))];
  }
  /// Expected tokens of each GPU, where the replicas of an expert share its load evenly.
  std::vector<double> gpu_loads(std::span<const double> load) const {
    std::vector<double> sums(static_cast<std::size_t>(shape.gpus), 0);
    for (std::size_t slot = 0; slot < expert_of.size(); ++slot) {
      const auto expert = static_cast<std::size_t>(expert_of[slot]);
      sums[static_cast<std::size_t>(shape.gpu_of(static_cast<index_t>(slot)))] +=
          load[expert] / static_cast<double>(slots_of[expert].size());
    }
    return sums;
  }
  /// The busiest GPU's load over the mean; 1 is even.
  double imbalance(std::span<const double> load) const {
    const std::vector<double> sums = gpu_loads(load);
    const double total = std::accumulate(sums.begin(), sums.end(), 0.0);
    return total > 0 ? *std::max_element(sums.begin(), sums.end()) * static_cast<double>(sums.size()) / total
                     : 1;
  }
};

namespace detail {

/// Items shared out to bins of as many each: the heaviest first, each into the lightest bin with room (of
/// equal ones the first). Where a bin takes one item, item i is bin i's.
struct even_packing {
  std::vector<index_t> bin, position;  // by item

  even_packing(std::span<const double> weight, index_t bins)
      : bin(weight.size()), position(weight.size(), 0) {
    const index_t room = static_cast<index_t>(weight.size()) / bins;
    std::vector<index_t> order(weight.size());
    std::iota(order.begin(), order.end(), index_t{0});
    if (room == 1) {
      bin = order;
      return;
    }
    std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
      return weight[static_cast<std::size_t>(a)] > weight[static_cast<std::size_t>(b)];
    });
    std::vector<double> total(static_cast<std::size_t>(bins), 0);
    std::vector<index_t> taken(static_cast<std::size_t>(bins), 0);
    for (const index_t item : order) {
      std::size_t best = total.size();
      for (std::size_t b = 0; b < total.size(); ++b)
        if (taken[b] < room && (best == total.size() || total[b] < total[best])) best = b;
      bin[static_cast<std::size_t>(item)] = static_cast<index_t>(best);
      position[static_cast<std::size_t>(item)] = taken[best]++;
      total[best] += weight[static_cast<std::size_t>(item)];
    }
  }
};

/// Which of the experts each of `slots` slots is for: first all of them, then again and again the one whose
/// replicas are busiest (of equal ones the first).
inline std::vector<index_t> replicated(std::span<const double> load, index_t slots) {
  std::vector<index_t> expert(load.size());
  std::iota(expert.begin(), expert.end(), index_t{0});
  std::vector<double> count(load.size(), 1);
  while (static_cast<index_t>(expert.size()) < slots) {
    std::size_t busiest = 0;
    for (std::size_t e = 1; e < load.size(); ++e)
      if (load[e] / count[e] > load[busiest] / count[busiest]) busiest = e;
    expert.push_back(static_cast<index_t>(busiest));
    ++count[busiest];
  }
  return expert;
}

}  // namespace detail

/// Places the experts of one layer. With whole groups on nodes: groups are packed onto nodes, the experts of
/// a node replicated into its slots, the replicas packed onto its GPUs. Otherwise the same with one group and
/// one node.
inline expert_placement place_experts(const expert_slots& shape, std::span<const double> load) {
  require(shape.check());
  require(shape.check(load));
  const index_t nodes = shape.by_nodes() ? shape.nodes : 1, groups = shape.by_nodes() ? shape.groups : 1;
  const index_t width = shape.experts / groups;  // experts of a group
  std::vector<double> group_load(static_cast<std::size_t>(groups), 0);
  for (index_t e = 0; e < shape.experts; ++e)
    group_load[static_cast<std::size_t>(e / width)] += load[static_cast<std::size_t>(e)];
  const detail::even_packing of_groups{group_load, nodes};
  std::vector<std::vector<index_t>> members(static_cast<std::size_t>(nodes));  // experts by node
  for (std::vector<index_t>& each : members) each.resize(static_cast<std::size_t>(shape.experts / nodes));
  for (index_t e = 0; e < shape.experts; ++e) {
    const auto group = static_cast<std::size_t>(e / width);
    members[static_cast<std::size_t>(of_groups.bin[group])]
           [static_cast<std::size_t>(of_groups.position[group] * width + e % width)] = e;
  }

  expert_placement placed{.shape = shape};
  placed.expert_of.resize(static_cast<std::size_t>(shape.slots));
  placed.slots_of.resize(static_cast<std::size_t>(shape.experts));
  for (index_t node = 0; node < nodes; ++node) {
    const std::vector<index_t>& here = members[static_cast<std::size_t>(node)];
    std::vector<double> node_load;
    for (const index_t e : here) node_load.push_back(load[static_cast<std::size_t>(e)]);
    const std::vector<index_t> replicas = detail::replicated(node_load, shape.slots / nodes);
    std::vector<double> count(here.size(), 0), replica_load;
    for (const index_t e : replicas) ++count[static_cast<std::size_t>(e)];
    for (const index_t e : replicas)
      replica_load.push_back(node_load[static_cast<std::size_t>(e)] / count[static_cast<std::size_t>(e)]);
    const detail::even_packing of_replicas{replica_load, shape.gpus / nodes};
    for (std::size_t r = 0; r < replicas.size(); ++r) {
      const index_t slot =
          node * (shape.slots / nodes) + of_replicas.bin[r] * shape.per_gpu() + of_replicas.position[r];
      const index_t expert = here[static_cast<std::size_t>(replicas[r])];
      placed.expert_of[static_cast<std::size_t>(slot)] = expert;
      placed.slots_of[static_cast<std::size_t>(expert)].push_back(slot);
    }
  }
  return placed;
}

}  // namespace dsv3::inline DSV3_ABI
