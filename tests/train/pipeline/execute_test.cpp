// SPDX-License-Identifier: MIT
// The executor on ranks that are threads: results that only the right order gives, and the simulated
// timeline.
#include <dsv3/comm/threads.hpp>
#include <dsv3/train/pipeline/execute.hpp>
#include <dsv3/train/pipeline/methods.hpp>

#include <support/run.hpp>
#include <train/pipeline/toy_stages.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <vector>

using namespace toy;

TEST_CASE("every schedule computes what one micro-batch after the other does, as simulated") {
  const durations d{
      .forward = 1, .input_gradient = 1.25, .weight_gradient = 0.75, .backward = 2, .overlapped = 2.5};
  for (const method& each : methods)
    for (const int ranks : {1, 2, 4, 6})
      for (const int micro_batches : {2 * ranks, 2 * ranks + 6}) {
        if (!each.check(ranks, micro_batches)) continue;
        CAPTURE(each.name);
        CAPTURE(ranks);
        const executor run{each.make(ranks, micro_batches)};
        const schedule& s = run.of();
        const std::vector<std::vector<number>> expected = one_by_one(s);
        const simulation simulated = simulate(s, d);
        const std::vector<peak_storage> peak = peaks(s);
        thread_ranks{ranks}.run([&](const any_communicator& comm) {
          cpu_context<> ctx{};
          const std::size_t r = static_cast<std::size_t>(comm.rank());
          toy_stages stages{s, comm.rank(), d};
          run.run(ctx, comm, stages);
          for (int chunk = 0; chunk < s.places.chunks(); ++chunk) {
            const location here{comm.rank(), chunk};
            CHECK(stages.sums[std::size_t(chunk)] ==
                  expected[std::size_t(s.places.route_of(here))][std::size_t(s.places.stage_of(here))]);
          }
          CHECK(stages.empty());
          CHECK(stages.most_kept() <= std::size_t(peak[r].activations));
          std::size_t n = 0;
          for (std::size_t i = 0; i < s.ranks[r].size(); ++i) {
            if (is_message(s.ranks[r][i])) continue;
            CHECK(stages.paper[n].begin == doctest::Approx(simulated.spans[r][i].begin));
            CHECK(stages.paper[n].end == doctest::Approx(simulated.spans[r][i].end));
            ++n;
          }
          CHECK(n == stages.paper.size());
        });
      }
}

TEST_CASE("on the clock of the wall, too, everything comes in the simulated order") {
  constexpr double unit_seconds = 1e-3;
  for (const method& each : methods) {
    CAPTURE(each.name);
    const executor run{each.make(4, 8)};
    const schedule& s = run.of();
    const simulation simulated = simulate(s);
    std::vector<execution_record> records(4);
    for (execution_record& record : records) record.origin = records[0].origin;
    thread_ranks{4}.run([&](const any_communicator& comm) {
      cpu_context<> ctx{};
      toy_stages stages{s, comm.rank(), {}, std::chrono::microseconds{1000}};
      run.run(ctx, comm, stages, &records[static_cast<std::size_t>(comm.rank())]);
    });
    double earliest = records[0].spans[0].begin;
    for (const execution_record& record : records) earliest = std::min(earliest, record.spans[0].begin);
    double latest = 0;
    for (std::size_t r = 0; r < 4; ++r) {
      double before = 0;
      for (std::size_t i = 0; i < s.ranks[r].size(); ++i) {
        const time_span span = records[r].spans[i];
        latest = std::max(latest, span.end);
        if (is_message(s.ranks[r][i])) continue;
        // Nothing is early, and a rank keeps the order of its list.
        CHECK(span.begin - earliest >= unit_seconds * simulated.spans[r][i].begin - 1e-6);
        CHECK(span.begin >= before);
        before = span.end;
      }
    }
    CHECK(latest - earliest >= unit_seconds * simulated.makespan - 1e-6);
    // Whatever ended a whole unit before something else began on paper, and which that waits for.
    for (int m = 0; m < 8; ++m)
      for (int stage = 1; stage < s.places.stages(); ++stage) {
        const location to = s.places.at(s.route_of(m), stage), from = s.places.before(to);
        const auto span = [&](const location& at, bool forward) {
          const std::size_t r = static_cast<std::size_t>(at.rank);
          for (std::size_t i = 0; i < s.ranks[r].size(); ++i) {
            const instruction& n = s.ranks[r][i];
            if (forward ? goes_forward(n) && n.of == unit{m, at.chunk}
                        : goes_backward(n) && backward_unit(n) == unit{m, at.chunk})
              return records[r].spans[i];
          }
          FAIL("not in the list");
          return time_span{};
        };
        CHECK(span(from, true).end <= span(to, true).begin);
        CHECK(span(to, false).end <= span(from, false).begin);
      }
  }
}

TEST_CASE("what cannot be run is refused before anything is") {
  schedule spoiled = one_f_one_b(2, 2);
  spoiled.ranks[0].pop_back();
  CHECK(support::raised([&] { executor{spoiled}; }) == verify(spoiled).message());
  const executor run{one_f_one_b(2, 2)};
  cpu_context<> ctx{};
  toy_stages stages{run.of(), 0, {}};
  CHECK(support::raised([&] { run.run(ctx, any_communicator{}, stages); }) ==
        "1f1b has 2 ranks, the communicator has 1");
  CHECK(stages.paper.empty());
}
