// SPDX-License-Identifier: MIT
// The verifier passes what the generators make, and finds every way to spoil it.
#include <dsv3/exec/random.hpp>
#include <dsv3/train/pipeline/methods.hpp>
#include <dsv3/train/pipeline/verify.hpp>

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

using namespace dsv3;
using namespace dsv3::pipeline;

namespace {

using rank_list = std::vector<instruction>;

rank_list& list(schedule& s, int rank) { return s.ranks[static_cast<std::size_t>(rank)]; }

std::size_t find(const schedule& s, int rank, const std::string& text) {
  const rank_list& l = s.ranks[static_cast<std::size_t>(rank)];
  for (std::size_t i = 0; i < l.size(); ++i)
    if (to_string(l[i]) == text) return i;
  FAIL("rank " << rank << " has no " << text);
  return 0;
}

// Says nothing of why: ranks take turns, facts are remembered as they become true, a message is one fact for
// both of its ranks.
bool runs(const schedule& s) {
  using fact = std::tuple<char, int, int>;  // what, stage, micro-batch
  std::set<fact> facts;
  std::vector<std::set<fact>> here(s.ranks.size());  // what has come to a rank, or was made there
  std::vector<std::size_t> at(s.ranks.size(), 0);
  const int last = s.places.stages() - 1;
  const auto once = [&](char what, int stage, int m) { return facts.insert({what, stage, m}).second; };
  const auto stage_of = [&](int rank, const unit& u) { return s.places.stage_of({rank, u.chunk}); };
  for (bool moved = true; moved;) {
    moved = false;
    for (int rank = 0; rank < s.places.ranks(); ++rank) {
      const std::size_t r = static_cast<std::size_t>(rank);
      if (at[r] == s.ranks[r].size()) continue;
      const instruction& i = s.ranks[r][at[r]];
      if (i.what == act::receive) continue;  // the sender moves both
      if (i.what == act::send) {
        const std::size_t p = static_cast<std::size_t>(i.peer);
        if (at[p] == s.ranks[p].size()) continue;
        const instruction& j = s.ranks[p][at[p]];
        if (j.what != act::receive || j.peer != rank) continue;
        const bool forward = i.carries == payload::activation;
        const char what = forward ? 'f' : 'b';
        const fact carried{what, stage_of(rank, i.of), i.of.micro_batch};
        const fact wanted{j.carries == payload::activation ? 'f' : 'b',
                          stage_of(i.peer, j.of) + (j.carries == payload::activation ? -1 : 1),
                          j.of.micro_batch};
        if (carried != wanted || !here[r].contains(carried) || !here[p].insert(carried).second) return false;
        ++at[r], ++at[p];
        moved = true;
        continue;
      }
      if (goes_backward(i)) {
        const unit u = backward_unit(i);
        const int stage = stage_of(rank, u);
        if (!here[r].contains({'f', stage, u.micro_batch})) return false;
        if (stage < last && !here[r].contains({'b', stage + 1, u.micro_batch})) return false;
      }
      if (goes_forward(i)) {
        const int stage = stage_of(rank, i.of);
        if (stage > 0 && !here[r].contains({'f', stage - 1, i.of.micro_batch})) return false;
        if (!once('f', stage, i.of.micro_batch)) return false;
        here[r].insert({'f', stage, i.of.micro_batch});
      }
      if (goes_backward(i)) {
        const unit u = backward_unit(i);
        const int stage = stage_of(rank, u);
        if (!once('b', stage, u.micro_batch)) return false;
        here[r].insert({'b', stage, u.micro_batch});
        if (i.what != act::input_gradient && !once('w', stage, u.micro_batch)) return false;
      }
      if (i.what == act::weight_gradient) {
        const int stage = stage_of(rank, i.of);
        if (!here[r].contains({'b', stage, i.of.micro_batch})) return false;
        if (!once('w', stage, i.of.micro_batch)) return false;
      }
      ++at[r];
      moved = true;
    }
  }
  for (std::size_t r = 0; r < at.size(); ++r)
    if (at[r] != s.ranks[r].size()) return false;
  return facts.size() == static_cast<std::size_t>(3 * s.places.stages() * s.micro_batches);
}

}  // namespace

TEST_CASE("every number of ranks and micro-batches is refused or passes") {
  int passed = 0, refused = 0;
  for (const method& each : methods)
    for (int ranks = 2; ranks <= 16; ++ranks)
      for (int micro_batches = 2; micro_batches <= 64; ++micro_batches) {
        if (const status can = each.check(ranks, micro_batches); !can) {
          ++refused;
          if (each.name == std::string("dualpipe"))
            CHECK((ranks % 2 != 0 || micro_batches % 2 != 0 || micro_batches < 2 * ranks));
          else
            CHECK((each.name == std::string("dualpipe_v") && micro_batches < 2 * ranks));
          continue;
        }
        ++passed;
        const status found = verify(each.make(ranks, micro_batches));
        if (!found) FAIL(found.message());
      }
  CHECK(passed == 2 * 15 * 63 + (8 * 33 - 72) + 15 * 65 - 2 * 135);
  CHECK(refused == 4 * 15 * 63 - passed);
}

TEST_CASE("one rank pipelines nothing and sends nothing") {
  for (const schedule& s : {one_f_one_b(1, 3), zb1p(1, 3), dualpipe_v(1, 3)}) {
    CHECK(verify(s).good());
    for (const instruction& i : s.ranks[0]) CHECK_FALSE(is_message(i));
  }
}

TEST_CASE("no instruction can go, come twice or be of another unit") {
  for (const method& each : methods) {
    const schedule good = each.make(4, 10);
    for (int rank = 0; rank < 4; ++rank)
      for (std::size_t n = 0; n < good.ranks[std::size_t(rank)].size(); ++n) {
        CAPTURE(each.name);
        CAPTURE(rank);
        CAPTURE(n);
        schedule s = good;
        list(s, rank).erase(list(s, rank).begin() + std::ptrdiff_t(n));
        CHECK_FALSE(verify(s).good());
        s = good;
        list(s, rank).insert(list(s, rank).begin() + std::ptrdiff_t(n), list(s, rank)[n]);
        CHECK_FALSE(verify(s).good());
        const auto spoiled = [&](auto&& spoil) {
          s = good;
          spoil(list(s, rank)[n]);
          return !verify(s).good();
        };
        CHECK(spoiled([](instruction& i) { ++i.of.micro_batch; }));
        CHECK(spoiled([](instruction& i) { i.of.chunk = 1 - i.of.chunk; }));
        const instruction& i = list(s, rank)[n];
        if (is_message(i)) {
          CHECK(spoiled([](instruction& m) { m.peer = (m.peer + 1) % 4; }));
          CHECK(spoiled([](instruction& m) { m.what = m.what == act::send ? act::receive : act::send; }));
          CHECK(spoiled([](instruction& m) {
            m.carries = m.carries == payload::activation ? payload::gradient : payload::activation;
          }));
        } else if (i.what == act::overlapped) {
          CHECK(spoiled([](instruction& m) { --m.back.micro_batch; }));
          CHECK(spoiled([](instruction& m) { m.what = act::forward; }));
        } else if (i.what == act::backward) {
          CHECK(spoiled([](instruction& m) { m.what = act::input_gradient; }));
        } else if (i.what == act::input_gradient) {
          CHECK(spoiled([](instruction& m) { m.what = act::backward; }));
        }
      }
  }
}

TEST_CASE("what is found is said in a sentence") {
  const schedule good = one_f_one_b(2, 3);
  schedule s = good;
  const auto erase = [&](int rank, const std::string& what) {
    s = good;
    list(s, rank).erase(list(s, rank).begin() + std::ptrdiff_t(find(s, rank, what)));
    return verify(s).message();
  };
  const auto refusal = [&](auto&& spoil) {
    s = good;
    spoil(s);
    return verify(s).message();
  };
  CHECK(erase(0, "forward of micro-batch 2 in chunk 0") ==
        "1f1b: rank 0, entry 6, sending the activation of micro-batch 2 in chunk 0 to rank 1: not made yet");
  CHECK(erase(0, "sending the activation of micro-batch 2 in chunk 0 to rank 1") ==
        "1f1b: rank 0 never sends the activation of micro-batch 2 in chunk 0");
  CHECK(erase(1, "receiving the activation of micro-batch 2 in chunk 0 from rank 0") ==
        "1f1b: rank 1, entry 8, forward of micro-batch 2 in chunk 0: its input is not there yet");
  CHECK(erase(0, "receiving the gradient of micro-batch 2 in chunk 0 from rank 1") ==
        "1f1b: rank 0, entry 10, backward of micro-batch 2 in chunk 0: the gradient of its output is not "
        "there yet");
  CHECK(erase(0, "backward of micro-batch 2 in chunk 0") ==
        "1f1b: rank 0 never runs the backward of micro-batch 2 in chunk 0");
  CHECK(refusal([](schedule& x) { x.micro_batches = 0; }) ==
        "1f1b: 0 micro-batches for 1 routes, expected as many for each, at least one");
  CHECK(refusal([](schedule& x) { x.ranks.pop_back(); }) == "1f1b: 1 lists for 2 ranks");
  CHECK(refusal([](schedule& x) { list(x, 1)[1].of.micro_batch = 3; }) ==
        "1f1b: rank 1, forward of micro-batch 3 in chunk 0: this micro-batch never comes there");
  CHECK(refusal([](schedule& x) { list(x, 1)[0].peer = 1; }) ==
        "1f1b: rank 1, receiving the activation of micro-batch 0 in chunk 0 from rank 1: expected another "
        "one of "
        "2 ranks");
  CHECK(refusal([](schedule& x) { list(x, 1).push_back(list(x, 1)[1]); }) ==
        "1f1b: rank 1, entry 12, forward of micro-batch 0 in chunk 0: a second time");
  schedule three = one_f_one_b(3, 2);
  list(three, 0)[find(three, 0, "sending the activation of micro-batch 1 in chunk 0 to rank 1")].peer = 2;
  CHECK(
      verify(three).message() ==
      "1f1b: rank 0, entry 3, sending the activation of micro-batch 1 in chunk 0 to rank 2: expected rank 1");
  three = one_f_one_b(3, 2);
  list(three, 2).push_back({.what = act::send, .of = {0, 0}, .peer = 1});
  CHECK(verify(three).message() ==
        "1f1b: rank 2, entry 8, sending the activation of micro-batch 0 in chunk 0 to rank 1: its route ends "
        "here");

  const schedule halves = zb1p(2, 3);
  s = halves;
  list(s, 1).pop_back();
  CHECK(verify(s).message() == "zb1p: rank 1 never runs the weight gradient of micro-batch 2 in chunk 0");
  s = halves;
  list(s, 0).insert(list(s, 0).begin(), list(s, 0).back());
  CHECK(verify(s).message() ==
        "zb1p: rank 0, entry 0, weight gradient of micro-batch 2 in chunk 0: its input gradient comes later "
        "or never");
}

TEST_CASE("messages that overtake each other meet the wrong one") {
  const schedule good = one_f_one_b(2, 3);
  schedule s = good;
  rank_list& l = list(s, 0);
  l.erase(l.begin() + 1);
  l.insert(l.begin() + 3, good.ranks[0][1]);  // after both forwards, behind the second one's output
  CHECK(verify(s).message() ==
        "1f1b: rank 0, sending the activation of micro-batch 1 in chunk 0 to rank 1, meets rank 1, receiving "
        "the "
        "activation of micro-batch 0 in chunk 0 from rank 0");
  s = good;
  list(s, 0).push_back(good.ranks[0][1]);
  CHECK(
      verify(s).message() ==
      "1f1b: rank 0, entry 12, sending the activation of micro-batch 0 in chunk 0 to rank 1: a second time");
}

TEST_CASE("ranks that wait for each other are a deadlock, told from where it turns in circles") {
  schedule s = one_f_one_b(2, 3);
  rank_list& l = list(s, 0);
  std::size_t n = 0;  // a message each way, one after the other; both ranks have them in one order
  while (!(l[n].what == act::send && l[n + 1].what == act::receive)) ++n;
  std::swap(l[n], l[n + 1]);
  CHECK(verify(s).message() ==
        "1f1b: a deadlock, rank 0 receiving the gradient of micro-batch 0 in chunk 0 from rank 1, rank 1 "
        "receiving the activation of micro-batch 1 in chunk 0 from rank 0");
}

TEST_CASE("after any two instructions changed places, the verdict is that of running it") {
  const random_stream random(20260301, 1);
  std::uint64_t counter = 0;
  const auto below = [&](std::size_t bound) { return std::size_t(random.below(bound, counter++)); };
  for (const method& each : methods) {
    const schedule good = each.make(4, 8);
    CHECK(runs(good));
    int still_good = 0;
    for (int trial = 0; trial < 3000; ++trial) {
      schedule s = good;
      rank_list& l = list(s, int(below(4)));
      const std::size_t a = below(l.size()), b = trial % 2 ? below(l.size()) : (a + 1) % l.size();
      std::swap(l[a], l[b]);
      const bool verdict = verify(s).good();
      CAPTURE(each.name);
      CAPTURE(verify(s).message());
      CHECK(verdict == runs(s));
      still_good += verdict;
    }
    CHECK(still_good > 100);
    CHECK(still_good < 2900);
  }
}

TEST_CASE("what is stored") {
  // Two chunks of F F I W F...: a unit counts from its forward until its weights' gradients are made.
  const std::vector<peak_storage> found = peaks(zb1p(4, 8));
  for (int rank = 0; rank < 4; ++rank) {
    CHECK(found[std::size_t(rank)].activations == 4);
    CHECK(found[std::size_t(rank)].weight_gradients == rank + 1);
    CHECK(found[std::size_t(rank)].received <= 2);
  }
}
