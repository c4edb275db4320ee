// SPDX-License-Identifier: MIT
// What may move from one placement of experts to the next, and what that is worth.
#include <dsv3/exec/random.hpp>
#include <dsv3/infer/expert_rebalance.hpp>

#include <support/run.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <vector>

using namespace dsv3;

namespace {

using loads = std::vector<double>;

// GPUs that gained an expert, counted with sets.
index_t fetched(const expert_placement& before, const expert_placement& next) {
  const auto held = [](const expert_placement& p) {
    std::set<std::pair<index_t, index_t>> pairs;
    for (index_t slot = 0; slot < p.shape.slots; ++slot)
      pairs.insert({p.shape.gpu_of(slot), p.expert_of[std::size_t(slot)]});
    return pairs;
  };
  const auto was = held(before);
  index_t count = 0;
  for (const auto& pair : held(next)) count += !was.contains(pair);
  return count;
}

std::vector<std::multiset<index_t>> contents(const expert_placement& p) {
  std::vector<std::multiset<index_t>> all(std::size_t(p.shape.gpus));
  for (index_t slot = 0; slot < p.shape.slots; ++slot)
    all[std::size_t(p.shape.gpu_of(slot))].insert(p.expert_of[std::size_t(slot)]);
  std::sort(all.begin(), all.end());
  return all;
}

struct drift {
  expert_slots shape;
  loads before, after;
};

// Loads with long tails, and the same some time later.
drift random_drift(std::uint64_t trial) {
  const random_stream random(20260403, trial);
  std::uint64_t counter = 0;
  const auto below = [&](index_t bound) { return index_t(random.below(std::uint64_t(bound), counter++)); };
  drift d;
  const index_t nodes = 1 + below(3), gpus = nodes * (1 + below(4)), groups = nodes * (1 + below(2));
  const index_t experts = groups * (2 + below(5));
  d.shape = {.experts = experts,
             .groups = groups,
             .slots = gpus * (ceil_div(experts, gpus) + below(3)),
             .nodes = nodes,
             .gpus = gpus};
  for (index_t e = 0; e < experts; ++e) {
    d.before.push_back(100.0 / static_cast<double>(1 + below(50)));
    d.after.push_back(below(3) == 0 ? 100.0 / static_cast<double>(1 + below(50)) : d.before.back());
  }
  return d;
}

}  // namespace

TEST_CASE("no more moves than allowed, every expert stays, and the balance never gets worse") {
  for (std::uint64_t trial = 0; trial < 150; ++trial) {
    const drift d = random_drift(trial);
    CAPTURE(trial);
    const expert_placement before = place_experts(d.shape, d.before);
    for (const index_t most : {0, 1, 2, 5, 1000}) {
      const expert_placement next = rebalance_experts(before, d.after, 44, 44 * most + 43);
      CHECK(fetched(before, next) <= most);
      CHECK(moved_experts(before, next) == fetched(before, next));
      CHECK(next.imbalance(d.after) <= before.imbalance(d.after) * (1 + 1e-12));
      for (index_t e = 0; e < d.shape.experts; ++e) {
        CHECK(next.replicas(e) >= 1);
        if (!d.shape.by_nodes()) continue;
        const index_t width = d.shape.experts / d.shape.groups;
        for (const index_t slot : next.slots_of[std::size_t(e)])
          CHECK(d.shape.node_of(slot) == d.shape.node_of(next.slots_of[std::size_t(e / width * width)][0]));
      }
      if (most == 1000)
        CHECK(next.imbalance(d.after) <= place_experts(d.shape, d.after).imbalance(d.after) + 1e-12);
    }
  }
}

TEST_CASE("nothing moves where nothing may, or where nothing has changed") {
  for (std::uint64_t trial = 0; trial < 30; ++trial) {
    const drift d = random_drift(trial);
    const expert_placement before = place_experts(d.shape, d.before);
    // Inside a GPU weights need not travel: replicas of one GPU may still be given to other experts of it.
    CHECK(fetched(before, rebalance_experts(before, d.after, 1, 0)) == 0);
    CHECK(moved_experts(before, aligned_to(before, place_experts(d.shape, d.before))) == 0);
  }
}

TEST_CASE("an aligned placement is the same on other GPUs, and moves no more") {
  int less = 0;
  for (std::uint64_t trial = 0; trial < 100; ++trial) {
    const drift d = random_drift(trial);
    const expert_placement before = place_experts(d.shape, d.before), next = place_experts(d.shape, d.after);
    const expert_placement aligned = aligned_to(before, next);
    CHECK(contents(aligned) == contents(next));
    CHECK(aligned.imbalance(d.after) == doctest::Approx(next.imbalance(d.after)));
    CHECK(fetched(before, aligned) <= fetched(before, next));
    less += fetched(before, aligned) < fetched(before, next);
  }
  CHECK(less > 30);
}

TEST_CASE("a few moves go a long way") {
  // 256 experts on 32 GPUs with a redundant slot each; the busy ones change.
  const expert_slots shape{.experts = 256, .groups = 8, .slots = 288, .nodes = 4, .gpus = 32};
  loads was(256, 1), now(256, 1);
  for (std::size_t e = 0; e < was.size(); e += 29) was[e] = 8, now[(e + 7) % 256] = 8;
  const expert_placement before = place_experts(shape, was);
  const index_t bytes = 3 * 7168 * 2048;  // of an expert's weights, one each
  const expert_placement few = rebalance_experts(before, now, bytes, 24 * bytes);
  const expert_placement free = place_experts(shape, now);
  CHECK(moved_experts(before, few) <= 24);
  CHECK(before.imbalance(now) > 1.5);
  CHECK(few.imbalance(now) < 1.1);
  CHECK(few.imbalance(now) < free.imbalance(now));
  CHECK(moved_experts(before, aligned_to(before, free)) > 5 * 24);  // what planning anew would move
}

TEST_CASE("what makes no placement is refused with a sentence") {
  const expert_slots shape{.experts = 3, .slots = 4, .gpus = 2};
  const auto refusal = [&](std::vector<index_t> expert_of) {
    return support::raised([&] { (void)placement_of(shape, expert_of); });
  };
  CHECK(refusal({0, 1, 2, 2}).empty());
  CHECK(refusal({0, 1, 2}) == "expert placement: 3 slots are filled, expected 4");
  CHECK(refusal({0, 1, 2, 3}) == "expert placement: slot 3 holds expert 3, expected one of 0 to 2");
  CHECK(refusal({0, 1, 1, 0}) == "expert placement: expert 2 lies in no slot");
  const expert_placement p = placement_of(shape, {0, 1, 2, 2});
  CHECK(support::raised([&] {
          (void)rebalance_experts(p, loads{1, 2}, 1, 1);
        }) == "expert placement: the load has 2 entries, the layer has 3");
  CHECK(support::raised([&] {
          (void)rebalance_experts(p, loads{1, 2, 3}, 0, 1);
        }) ==
        "expert placement: weights of at least a byte, and a limit of at least 0 are expected, found expert "
        "bytes 0, "
        "most bytes 1");
}
