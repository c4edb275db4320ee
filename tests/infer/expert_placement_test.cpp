// SPDX-License-Identifier: MIT
// Placements against the published example, and what every placement must be.
#include <dsv3/exec/random.hpp>
#include <dsv3/infer/expert_placement.hpp>

#include <support/run.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

using namespace dsv3;

namespace {

using numbers = std::vector<index_t>;
using loads = std::vector<double>;

const loads load_a{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86};
const loads load_b{20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27};

double mean(const loads& load, index_t gpus) {
  return std::accumulate(load.begin(), load.end(), 0.0) / static_cast<double>(gpus);
}
double busiest(const expert_placement& p, const loads& load) {
  const loads sums = p.gpu_loads(load);
  return *std::max_element(sums.begin(), sums.end());
}

// The least busiest replica that any numbers of replicas give.
double best_busiest_replica(const loads& load, std::size_t at, index_t spare, double so_far) {
  if (at == load.size()) return so_far;
  double best = std::numeric_limits<double>::infinity();
  for (index_t more = 0; more <= spare; ++more)
    best = std::min(best, best_busiest_replica(load, at + 1, spare - more,
                                               std::max(so_far, load[at] / static_cast<double>(1 + more))));
  return best;
}

}  // namespace

TEST_CASE("the published example, by nodes and globally") {
  const expert_slots by_nodes{.experts = 12, .groups = 4, .slots = 16, .nodes = 2, .gpus = 8};
  const expert_slots global{.experts = 12, .groups = 4, .slots = 16, .nodes = 1, .gpus = 8};
  CHECK(place_experts(by_nodes, load_a).expert_of ==
        numbers{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1});
  CHECK(place_experts(by_nodes, load_b).expert_of ==
        numbers{7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1});
  CHECK(place_experts(global, load_a).expert_of ==
        numbers{10, 6, 10, 7, 0, 2, 11, 4, 5, 9, 5, 4, 8, 3, 1, 1});
  CHECK(place_experts(global, load_b).expert_of == numbers{1, 10, 2, 4, 5, 11, 5, 0, 6, 7, 6, 3, 8, 8, 9, 7});
}

TEST_CASE("what fills a bin alone keeps its number") {
  // A group for each node and a slot on each GPU: nothing is sorted by load.
  const expert_slots shape{.experts = 4, .groups = 2, .slots = 4, .nodes = 2, .gpus = 4};
  CHECK(place_experts(shape, loads{1, 2, 3, 4}).expert_of == numbers{0, 1, 2, 3});
}

TEST_CASE("groups that do not divide among nodes are placed globally") {
  const expert_slots shape{.experts = 12, .groups = 4, .slots = 24, .nodes = 3, .gpus = 12};
  expert_slots one = shape;
  one.nodes = 1, one.groups = 1;
  CHECK_FALSE(shape.by_nodes());
  CHECK(place_experts(shape, load_a).expert_of == place_experts(one, load_a).expert_of);
}

TEST_CASE("replicas take turns") {
  const expert_placement p =
      place_experts({.experts = 12, .groups = 4, .slots = 16, .nodes = 2, .gpus = 8}, load_a);
  CHECK(p.replicas(10) == 2);
  CHECK(p.slots_of[10] == numbers{8, 10});
  CHECK((p.slot_of(10, 0) == 8 && p.slot_of(10, 1) == 10 && p.slot_of(10, 2) == 8));
  CHECK((p.replicas(0) == 1 && p.slot_of(0, 5) == 12));
}

TEST_CASE("every placement holds every expert, shares its load and keeps groups on their nodes") {
  const random_stream random(20260401, 3);
  std::uint64_t counter = 0;
  const auto below = [&](index_t bound) { return index_t(random.below(std::uint64_t(bound), counter++)); };
  for (int trial = 0; trial < 400; ++trial) {
    const index_t nodes = 1 + below(4), gpus = nodes * (1 + below(4));
    const index_t groups = nodes * (1 + below(3)), width = 1 + below(6), experts = groups * width;
    const index_t least = ceil_div(experts, gpus);
    const expert_slots shape{.experts = experts,
                             .groups = groups,
                             .slots = gpus * (least + below(4)),
                             .nodes = nodes,
                             .gpus = gpus};
    loads load;
    for (index_t e = 0; e < experts; ++e) {
      const double u = static_cast<double>(1 + below(1000)) / 1000;
      load.push_back(trial % 5 == 0            ? 1
                     : trial % 7 == 0 && e > 0 ? 0
                                               : 1 / u);  // even, all on one, long tails
    }
    const expert_placement p = place_experts(shape, load);
    index_t slots = 0;
    for (index_t e = 0; e < experts; ++e) {
      CHECK(p.replicas(e) >= 1);
      slots += p.replicas(e);
      for (const index_t slot : p.slots_of[std::size_t(e)]) {
        CHECK(p.expert_of[std::size_t(slot)] == e);
        CHECK(shape.node_of(slot) == shape.node_of(p.slots_of[std::size_t(e / width * width)][0]));
      }
    }
    CHECK(slots == shape.slots);
    const loads sums = p.gpu_loads(load);
    CHECK(std::accumulate(sums.begin(), sums.end(), 0.0) ==
          doctest::Approx(std::accumulate(load.begin(), load.end(), 0.0)));
    CHECK(p.imbalance(load) >= 1 - 1e-12);
    // Twice the load on everything changes nothing.
    loads twice = load;
    for (double& each : twice) each *= 2;
    CHECK(place_experts(shape, twice).expert_of == p.expert_of);
    // On one node: at most the mean and the heaviest replica above it.
    if (nodes > 1) continue;
    double heaviest = 0;
    for (index_t e = 0; e < experts; ++e)
      heaviest = std::max(heaviest, load[std::size_t(e)] / static_cast<double>(p.replicas(e)));
    CHECK(busiest(p, load) <= mean(load, gpus) + heaviest + 1e-9);
    CHECK(busiest(p, load) >= heaviest - 1e-9);
  }
}

TEST_CASE("no other numbers of replicas make the busiest replica less busy") {
  const random_stream random(20260402, 3);
  std::uint64_t counter = 0;
  for (int trial = 0; trial < 50; ++trial) {
    loads load;
    for (int e = 0; e < 5; ++e) load.push_back(static_cast<double>(random.below(50, counter++)));
    const index_t slots = 5 + index_t(random.below(6, counter++));
    const expert_placement p = place_experts({.experts = 5, .slots = slots}, load);
    double found = 0;
    for (index_t e = 0; e < 5; ++e)
      found = std::max(found, load[std::size_t(e)] / static_cast<double>(p.replicas(e)));
    CHECK(found == doctest::Approx(best_busiest_replica(load, 0, slots - 5, 0)));
  }
}

TEST_CASE("redundant slots even out what the units of the report carry") {
  // 256 experts, a few of them ten times as busy as the others, on 32 GPUs of 4 nodes.
  loads load(256, 1);
  for (std::size_t e = 0; e < load.size(); e += 29) load[e] = 10;
  const expert_slots plain{.experts = 256, .groups = 8, .slots = 256, .nodes = 4, .gpus = 32};
  expert_slots redundant = plain;
  redundant.slots = 288;
  CHECK(redundant.per_gpu() == 9);
  const double without = place_experts(plain, load).imbalance(load);
  const double with = place_experts(redundant, load).imbalance(load);
  CHECK(without > 1.5);
  CHECK(with < 1.15);
}

TEST_CASE("what cannot be placed is refused with a sentence") {
  const auto refusal = [](const expert_slots& shape, const loads& load) {
    return support::raised([&] { (void)place_experts(shape, load); });
  };
  const expert_slots good{.experts = 12, .groups = 4, .slots = 16, .nodes = 2, .gpus = 8};
  expert_slots s = good;
  s.slots = 8;
  CHECK(refusal(s, load_a) ==
        "expert placement: a slot for every expert is expected, found slots 8, experts 12");
  s = good, s.slots = 20;
  CHECK(refusal(s, load_a) ==
        "expert placement: GPUs with as many slots each are expected, found slots 20, GPUs 8");
  s = good, s.nodes = 3;
  CHECK(refusal(s, load_a) ==
        "expert placement: nodes of as many GPUs each are expected, found GPUs 8, nodes 3");
  s = good, s.groups = 5;
  CHECK(refusal(s, load_a) ==
        "expert placement: groups of as many experts each are expected, found experts 12, groups 5");
  s = good, s.gpus = 0;
  CHECK(refusal(s, load_a) ==
        "expert placement: counts of at least 1 are expected, found experts 12, groups 4, slots 16, nodes 2, "
        "GPUs 0");
  CHECK(refusal(good, {1, 2}) == "expert placement: the load has 2 entries, the layer has 12");
  loads load = load_a;
  for (const double wrong :
       {-1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    load[3] = wrong;
    CHECK(refusal(good, load) == "expert placement: loads that are finite and not negative are expected");
  }
}
