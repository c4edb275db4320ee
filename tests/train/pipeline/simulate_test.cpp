// SPDX-License-Identifier: MIT
// Bubbles, makespans and stored activations against the published formulas.
#include <dsv3/train/pipeline/methods.hpp>
#include <dsv3/train/pipeline/simulate.hpp>

#include <support/run.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

using namespace dsv3;
using namespace dsv3::pipeline;

namespace {

std::vector<int> stored(const schedule& s) {
  std::vector<int> all;
  for (const peak_storage& each : peaks(s)) all.push_back(each.activations);
  return all;
}

}  // namespace

TEST_CASE("eight ranks and twenty micro-batches take what is published") {
  struct expectation {
    schedule s;
    double makespan, bubble, busy_share;
    std::vector<int> activations;
  };
  const std::vector<expectation> expected{
      {one_f_one_b(8, 20), 81, 21, 0.741, {8, 7, 6, 5, 4, 3, 2, 1}},
      {zb1p(8, 20), 67, 7, 0.896, {8, 8, 8, 8, 8, 8, 8, 8}},
      {dualpipe(8, 20), 66, 6, 0.909, {9, 9, 9, 9, 9, 9, 9, 9}},
      {dualpipe_v(4, 10), 66, 6, 0.909, {9, 9, 9, 9}},
  };
  for (const expectation& each : expected) {
    CAPTURE(each.s.name);
    const simulation run = simulate(each.s);
    CHECK(run.makespan == each.makespan);
    for (int rank = 0; rank < each.s.places.ranks(); ++rank) CHECK(run.bubble(rank) == each.bubble);
    CHECK(std::abs(run.busy_share() - each.busy_share) < 5e-4);
    CHECK(stored(each.s) == each.activations);
  }
}

TEST_CASE("a schedule by itself") {
  const schedule s = dualpipe(8, 20);
  CHECK(verify(s).good());
  CHECK(notation(s.ranks[3]).starts_with("F0 F1 F0 F1 F0 F1 F0 F1 F0 B1 F1|B0"));
  const simulation run = simulate(s, {.overlapped = 2.4});  // instead of 3: a fifth of the pair is hidden
  CHECK(run.makespan == doctest::Approx(57.6));
  CHECK(peaks(s)[0].activations == 9);
}

TEST_CASE("sixteen ranks and sixty-four micro-batches") {
  const schedule s = dualpipe(16, 64);
  const simulation run = simulate(s);
  CHECK(run.makespan == 206);
  for (int rank = 0; rank < 16; ++rank) CHECK(run.bubble(rank) == 14);
  CHECK(stored(s) == std::vector<int>(16, 17));
}

TEST_CASE("of equal halves, bubbles are the formulas for every number of ranks and micro-batches") {
  for (const method& each : methods)
    for (int ranks = 1; ranks <= 16; ++ranks)
      for (const int micro_batches : {2 * ranks, 2 * ranks + 2, 4 * ranks, 64})
        for (const double weight_gradient : {1.0, 0.5}) {
          if (!each.check(ranks, micro_batches).good()) continue;
          CAPTURE(each.name);
          CAPTURE(ranks);
          CAPTURE(micro_batches);
          const double w = weight_gradient;
          const durations d{.forward = w,
                            .input_gradient = w,
                            .weight_gradient = w,
                            .backward = 2 * w,
                            .overlapped = 3 * w};
          const schedule s = each.make(ranks, micro_batches);
          const simulation run = simulate(s, d);
          const published_cost cost = each.cost(ranks, d);
          for (int rank = 0; rank < ranks; ++rank) CHECK(run.bubble(rank) == doctest::Approx(cost.bubble));
          const std::vector<int> found = stored(s);
          CHECK(*std::max_element(found.begin(), found.end()) == cost.activations);
        }
}

TEST_CASE("a pair that takes less than its parts shortens the middle ranks by the formula, outer ones less") {
  const durations d{.overlapped = 2.4};
  const simulation run = simulate(dualpipe(8, 20), d);
  CHECK(run.makespan == doctest::Approx(57.6));
  CHECK(dualpipe_cost(8, d).bubble == doctest::Approx(4.2));
  CHECK(run.bubble(3) == doctest::Approx(4.2));
  CHECK(run.bubble(4) == doctest::Approx(4.2));
  CHECK(run.bubble(0) == doctest::Approx(3.0));
  CHECK(run.bubble(7) == doctest::Approx(3.0));
}

TEST_CASE("unequal halves of backward leave the formula a little") {
  const durations d{
      .forward = 1, .input_gradient = 1.2, .weight_gradient = 0.8, .backward = 2, .overlapped = 3};
  const simulation run = simulate(dualpipe(8, 20), d);
  CHECK(dualpipe_cost(8, d).bubble == doctest::Approx(7.8));
  for (int rank = 0; rank < 8; ++rank) CHECK(run.bubble(rank) == doctest::Approx(7.2));
}

TEST_CASE("nothing overlaps on a rank, and nothing starts before what it needs has come") {
  for (const method& each : methods)
    for (const transfer_mode mode : {transfer_mode::posted, transfer_mode::blocking}) {
      CAPTURE(each.name);
      const schedule s = each.make(4, 12);
      const durations d{.forward = 1.1,
                        .input_gradient = 0.9,
                        .weight_gradient = 0.7,
                        .backward = 1.7,
                        .overlapped = 2.5,
                        .transfer = 0.3};
      const simulation run = simulate(s, d, mode);
      // When each unit has gone forward and backward, from the spans alone.
      const auto slot = [&](location at, int m) {
        return std::size_t((at.rank * s.places.chunks() + at.chunk) * s.micro_batches + m);
      };
      std::vector<time_span> forward(std::size_t(4 * 2 * 12)), backward(std::size_t(4 * 2 * 12));
      for (int rank = 0; rank < 4; ++rank) {
        double busy = 0, before = 0;
        for (std::size_t n = 0; n < s.ranks[std::size_t(rank)].size(); ++n) {
          const instruction& i = s.ranks[std::size_t(rank)][n];
          const time_span span = run.spans[std::size_t(rank)][n];
          CHECK(span.end - span.begin == doctest::Approx(duration_of(i, d)));
          if (is_message(i) && mode == transfer_mode::posted) continue;
          CHECK(span.begin >= before);
          before = span.end;
          if (is_message(i)) continue;
          busy += span.end - span.begin;
          if (goes_forward(i)) forward[slot({rank, i.of.chunk}, i.of.micro_batch)] = span;
          if (goes_backward(i))
            backward[slot({rank, backward_unit(i).chunk}, backward_unit(i).micro_batch)] = span;
        }
        CHECK(busy == doctest::Approx(run.busy[std::size_t(rank)]));
      }
      for (int m = 0; m < 12; ++m)
        for (int stage = 0; stage < s.places.stages(); ++stage) {
          const location here = s.places.at(s.route_of(m), stage);
          CHECK(backward[slot(here, m)].begin >= forward[slot(here, m)].end);
          if (stage == 0) continue;
          const location from = s.places.before(here);
          const double gap = from.rank == here.rank ? 0 : d.transfer - 1e-9;
          CHECK(forward[slot(here, m)].begin >= forward[slot(from, m)].end + gap);
          CHECK(backward[slot(from, m)].begin >= backward[slot(here, m)].end + gap);
        }
    }
}

TEST_CASE("messages that take no time cost none, even where sends wait; others cost it everywhere") {
  for (const method& each : methods) {
    const schedule s = each.make(8, 32);
    CAPTURE(each.name);
    CHECK(simulate(s, {}, transfer_mode::blocking).makespan == simulate(s).makespan);
    const double posted = simulate(s, {.transfer = 0.1}).makespan;
    CHECK(posted > simulate(s).makespan);
    CHECK(simulate(s, {.transfer = 0.1}, transfer_mode::blocking).makespan > posted);
    for (const peak_storage& peak : peaks(s)) CHECK(peak.received <= 2);
  }
}

TEST_CASE("a schedule that cannot be run is not simulated") {
  schedule s = one_f_one_b(2, 2);
  s.ranks[1].pop_back();
  CHECK(support::raised([&] { (void)simulate(s); }) == verify(s).message());
  CHECK(support::raised([] { (void)method_named("gpipe"); }) ==
        "no pipeline schedule is named \"gpipe\", expected one of 1f1b, zb1p, dualpipe, dualpipe_v");
}
