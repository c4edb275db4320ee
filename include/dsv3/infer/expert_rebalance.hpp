// SPDX-License-Identifier: MIT
// From one placement of experts to a better one, where only so many bytes of weights may move between GPUs.
#pragma once

#include <dsv3/infer/expert_placement.hpp>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// A placement from what lies in its slots; replicas of an expert in the order of their slots.
inline expert_placement placement_of(const expert_slots& shape, std::vector<index_t> expert_of) {
  require(shape.check());
  if (static_cast<index_t>(expert_of.size()) != shape.slots)
    raise("expert placement: " + std::to_string(expert_of.size()) + " slots are filled, expected " +
          std::to_string(shape.slots));
  expert_placement placed{.shape = shape, .expert_of = std::move(expert_of)};
  placed.slots_of.resize(static_cast<std::size_t>(shape.experts));
  for (index_t slot = 0; slot < shape.slots; ++slot) {
    const index_t expert = placed.expert_of[static_cast<std::size_t>(slot)];
    if (expert < 0 || expert >= shape.experts)
      raise("expert placement: slot " + std::to_string(slot) + " holds expert " + std::to_string(expert) +
            ", expected one of 0 to " + std::to_string(shape.experts - 1));
    placed.slots_of[static_cast<std::size_t>(expert)].push_back(slot);
  }
  for (std::size_t e = 0; e < placed.slots_of.size(); ++e)
    if (placed.slots_of[e].empty())
      raise("expert placement: expert " + std::to_string(e) + " lies in no slot");
  return placed;
}

namespace detail {

/// The experts of one GPU.
inline std::span<const index_t> experts_on(const std::vector<index_t>& expert_of, const expert_slots& shape,
                                           index_t gpu) {
  return std::span{expert_of}.subspan(static_cast<std::size_t>(gpu * shape.per_gpu()),
                                      static_cast<std::size_t>(shape.per_gpu()));
}
inline bool holds(std::span<const index_t> experts, index_t expert) {
  return std::find(experts.begin(), experts.end(), expert) != experts.end();
}
/// Different experts of `now` that are not in `before`.
inline index_t arrivals(std::span<const index_t> before, std::span<const index_t> now) {
  index_t count = 0;
  for (std::size_t i = 0; i < now.size(); ++i)
    count += !holds(before, now[i]) && !holds(now.first(i), now[i]);
  return count;
}

/// Pairs every left one with a right one so that the sum of costs is low, never above that of equal numbers:
/// `right` of each left.
template <class Cost>
std::vector<index_t> paired(index_t count, Cost&& cost) {
  const std::size_t n = static_cast<std::size_t>(count);
  std::vector<index_t> costs, right(n);
  for (index_t left = 0; left < count; ++left)
    for (index_t other = 0; other < count; ++other) costs.push_back(cost(left, other));
  const auto of = [&](std::size_t left, index_t other) {
    return costs[left * n + static_cast<std::size_t>(other)];
  };
  std::iota(right.begin(), right.end(), index_t{0});
  for (bool better = true; better;) {  // exchange partners as long as that helps
    better = false;
    for (std::size_t a = 0; a < n; ++a)
      for (std::size_t b = a + 1; b < n; ++b)
        if (of(a, right[b]) + of(b, right[a]) < of(a, right[a]) + of(b, right[b]))
          std::swap(right[a], right[b]), better = true;
  }
  return right;
}

}  // namespace detail

/// How many experts' weights GPUs must fetch from others for the next placement.
inline index_t moved_experts(const expert_placement& before, const expert_placement& next) {
  index_t moved = 0;
  for (index_t gpu = 0; gpu < next.shape.gpus; ++gpu)
    moved += detail::arrivals(detail::experts_on(before.expert_of, before.shape, gpu),
                              detail::experts_on(next.expert_of, next.shape, gpu));
  return moved;
}

/// `next` with its nodes, the GPUs of a node and the slots of a GPU renamed, so that little moves; its
/// balance is the same.
inline expert_placement aligned_to(const expert_placement& before, const expert_placement& next) {
  const expert_slots& shape = next.shape;
  const index_t nodes = shape.by_nodes() ? shape.nodes : 1, gpus = shape.gpus / nodes;
  const auto fetched = [&](index_t gpu, index_t as) {
    return detail::arrivals(detail::experts_on(before.expert_of, shape, as),
                            detail::experts_on(next.expert_of, shape, gpu));
  };
  const auto gpus_of = [&](index_t node, index_t as) {
    return detail::paired(gpus,
                          [&](index_t a, index_t b) { return fetched(node * gpus + a, as * gpus + b); });
  };
  const std::vector<index_t> node_as = detail::paired(nodes, [&](index_t node, index_t as) {
    const std::vector<index_t> pairs = gpus_of(node, as);
    index_t sum = 0;
    for (index_t g = 0; g < gpus; ++g)
      sum += fetched(node * gpus + g, as * gpus + pairs[static_cast<std::size_t>(g)]);
    return sum;
  });
  std::vector<index_t> expert_of(next.expert_of.size(), -1);
  for (index_t node = 0; node < nodes; ++node) {
    const index_t as = node_as[static_cast<std::size_t>(node)];
    const std::vector<index_t> pairs = gpus_of(node, as);
    for (index_t g = 0; g < gpus; ++g) {
      const index_t to = as * gpus + pairs[static_cast<std::size_t>(g)];
      const auto there = detail::experts_on(before.expert_of, shape, to);
      const auto mine = detail::experts_on(next.expert_of, shape, node * gpus + g);
      std::vector<index_t> left{mine.begin(), mine.end()};
      const std::size_t first = static_cast<std::size_t>(to * shape.per_gpu());
      for (std::size_t i = 0; i < there.size(); ++i)  // what stays keeps its slot
        if (const auto found = std::find(left.begin(), left.end(), there[i]); found != left.end()) {
          expert_of[first + i] = *found;
          left.erase(found);
        }
      for (std::size_t i = 0, n = 0; i < there.size(); ++i)
        if (expert_of[first + i] < 0) expert_of[first + i] = left[n++];
    }
  }
  return placement_of(shape, std::move(expert_of));
}

namespace detail {

/// Improves a placement change by change, each the best that the limit still allows: another expert in a slot
/// whose expert has replicas elsewhere, or two slots exchanged. Every change relieves the busiest GPU, or
/// leaves it and evens out the others.
class gradual_rebalance {
 public:
  gradual_rebalance(const expert_placement& before, std::span<const double> load, index_t most)
      : before_(before), shape_(before.shape), load_(load), most_(most), expert_of_(before.expert_of) {
    for (const std::vector<index_t>& slots : before.slots_of) {
      count_.push_back(static_cast<index_t>(slots.size()));
      node_.push_back(node_of(slots[0]));
    }
    arrived_.assign(static_cast<std::size_t>(shape_.gpus), 0);
  }

  expert_placement run() {
    now_ = value();
    while (step()) {
    }
    return placement_of(shape_, expert_of_);
  }

 private:
  struct balance {
    double busiest = 0, squares = 0;
    bool better_than(const balance& other) const {
      constexpr double less = 1 - 1e-9;  // a change must be worth more than a rounding
      return busiest < less * other.busiest || (busiest <= other.busiest && squares < less * other.squares);
    }
  };
  struct change {
    index_t slot = -1, expert = 0;  // the expert that comes
    index_t other = -1;             // the slot it comes from, where two are exchanged
  };

  index_t node_of(index_t slot) const { return shape_.by_nodes() ? shape_.node_of(slot) : 0; }
  index_t at(index_t slot) const { return expert_of_[static_cast<std::size_t>(slot)]; }
  bool spare(index_t slot) const { return count_[static_cast<std::size_t>(at(slot))] > 1; }

  balance value() {
    sums_.assign(static_cast<std::size_t>(shape_.gpus), 0);
    for (index_t slot = 0; slot < shape_.slots; ++slot) {
      const auto e = static_cast<std::size_t>(at(slot));
      sums_[static_cast<std::size_t>(shape_.gpu_of(slot))] += load_[e] / static_cast<double>(count_[e]);
    }
    balance b;
    for (const double sum : sums_) b.busiest = std::max(b.busiest, sum), b.squares += sum * sum;
    return b;
  }
  void put(index_t slot, index_t expert) {
    --count_[static_cast<std::size_t>(at(slot))];
    ++count_[static_cast<std::size_t>(expert)];
    expert_of_[static_cast<std::size_t>(slot)] = expert;
  }
  // Makes the change; what undoes it.
  change make(const change& c) {
    const change undo{c.slot, at(c.slot), c.other};
    if (c.other >= 0) put(c.other, at(c.slot));
    put(c.slot, c.expert);
    return undo;
  }
  index_t arrivals_on(index_t gpu) const {
    return arrivals(experts_on(before_.expert_of, shape_, gpu), experts_on(expert_of_, shape_, gpu));
  }
  // What would have arrived in all, with the change made.
  index_t arrived_with(const change& c) const {
    index_t sum = total_;
    const index_t gpu = shape_.gpu_of(c.slot), other = c.other < 0 ? gpu : shape_.gpu_of(c.other);
    sum += arrivals_on(gpu) - arrived_[static_cast<std::size_t>(gpu)];
    if (other != gpu) sum += arrivals_on(other) - arrived_[static_cast<std::size_t>(other)];
    return sum;
  }

  void consider(const change& c) {
    if (node_of(c.slot) != node_[static_cast<std::size_t>(c.expert)] || at(c.slot) == c.expert) return;
    const change undo = make(c);
    const index_t arrived = arrived_with(c);
    if (arrived <= most_) {
      const balance found = value();
      if (found.better_than(best_value_)) best_ = c, best_value_ = found;
    }
    make(undo);
  }

  bool step() {
    value();
    const index_t hot = std::max_element(sums_.begin(), sums_.end()) - sums_.begin();
    const index_t first = hot * shape_.per_gpu(), end = first + shape_.per_gpu();
    best_ = {}, best_value_ = now_;
    for (index_t slot = 0; slot < shape_.slots; ++slot) {
      const bool inside = slot >= first && slot < end;
      if (inside && spare(slot))  // something lighter instead of a replica of the busiest GPU
        for (index_t e = 0; e < shape_.experts; ++e) consider({slot, e});
      if (inside) continue;
      for (index_t mine = first; mine < end; ++mine) {
        if (spare(slot)) consider({slot, at(mine)});  // one more replica of what it has
        if (node_of(slot) == node_of(mine)) consider({mine, at(slot), slot});
      }
    }
    if (best_.slot < 0) return false;
    make(best_);
    now_ = best_value_;
    total_ = 0;
    for (index_t gpu = 0; gpu < shape_.gpus; ++gpu)
      total_ += arrived_[static_cast<std::size_t>(gpu)] = arrivals_on(gpu);
    return true;
  }

  const expert_placement& before_;
  const expert_slots shape_;
  const std::span<const double> load_;
  const index_t most_;
  std::vector<index_t> expert_of_, count_, node_;  // by slot; by expert: replicas, and where they lie
  std::vector<index_t> arrived_;                   // by GPU
  index_t total_ = 0;
  std::vector<double> sums_;
  balance now_, best_value_;
  change best_;
};

}  // namespace detail

/// A placement for `load` that takes at most `most_bytes` of weights across GPUs from the one before, each
/// expert that a GPU did not hold `expert_bytes`. It is never less even than the one before, and where the
/// limit allows all of `place_experts` at least as even as that. Where groups lie on nodes, they stay on
/// theirs unless the limit allows all.
inline expert_placement rebalance_experts(const expert_placement& before, std::span<const double> load,
                                          index_t expert_bytes, index_t most_bytes) {
  require(before.shape.check(load));
  require(requirements{"expert placement"}
              .that(expert_bytes > 0 && most_bytes >= 0,
                    "weights of at least a byte, and a limit of at least 0 are expected",
                    {{"expert bytes", expert_bytes}, {"most bytes", most_bytes}})
              .verdict());
  const index_t most = most_bytes / expert_bytes;
  expert_placement gradual =
      detail::gradual_rebalance{placement_of(before.shape, before.expert_of), load, most}.run();
  expert_placement whole = aligned_to(before, place_experts(before.shape, load));
  if (moved_experts(before, whole) > most) return gradual;
  const double a = whole.imbalance(load), b = gradual.imbalance(load);
  if (a == b) return moved_experts(before, whole) < moved_experts(before, gradual) ? whole : gradual;
  return a < b ? whole : gradual;
}

}  // namespace dsv3::inline DSV3_ABI
