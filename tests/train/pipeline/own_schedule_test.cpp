// SPDX-License-Identifier: MIT
// A schedule that the library does not have: all forwards, then all backwards.
#include <dsv3/comm/threads.hpp>
#include <dsv3/train/pipeline/simulate.hpp>
#include <dsv3/train/pipeline/transfers.hpp>
#include <dsv3/train/pipeline/writer.hpp>

#include <support/run.hpp>
#include <train/pipeline/toy_stages.hpp>

#include <doctest/doctest.h>

using namespace dsv3;
using namespace dsv3::pipeline;

namespace {

schedule all_then_all(int ranks, int micro_batches) {
  schedule s{.name = "all then all", .micro_batches = micro_batches, .places = placement::one_way(ranks)};
  for (int rank = 0; rank < ranks; ++rank) {
    list_writer list{s, rank};
    while (list.forwards_left(0)) list.forward(0);
    while (list.backwards_left(0)) list.backward(0);
    s.ranks.push_back(list.take());
  }
  return with_transfers(std::move(s));
}

}  // namespace

TEST_CASE("a schedule of one's own is verified, simulated and run like any other") {
  const schedule s = all_then_all(4, 6);
  CHECK(verify(s).good());
  const simulation run = simulate(s);
  CHECK(run.bubble(0) == (4 - 1) * (1 + 2));  // as 1F1B,
  CHECK(peaks(s)[0].activations == 6);        // but it stores all micro-batches
  const executor ranks{s};
  thread_ranks{4}.run([&](const any_communicator& comm) { toy::run_and_compare(ranks, comm); });
}

TEST_CASE("two chunks of a rank one after the other: stages 0 and 2 here, 1 and 3 there") {
  // Not down and back as a V, but round and round: the last rank hands on to the first.
  schedule s{
      .name = "round and round", .micro_batches = 4, .places = placement{{{{0, 0}, {1, 0}, {0, 1}, {1, 1}}}}};
  for (int rank = 0; rank < 2; ++rank) {
    list_writer list{s, rank};
    for (int pair = 0; pair < 2; ++pair) {
      for (const int chunk : {0, 1}) list.forward(chunk), list.forward(chunk);
      for (const int chunk : {1, 0}) list.backward(chunk), list.input_gradient(chunk), list.weight_gradient();
    }
    s.ranks.push_back(list.take());
  }
  s = with_transfers(std::move(s));
  CHECK(verify(s).message().empty());
  const executor ranks{s};
  thread_ranks{2}.run([&](const any_communicator& comm) { toy::run_and_compare(ranks, comm); });
}

TEST_CASE("lists that no order of messages can save are refused") {
  schedule s{.name = "too early", .micro_batches = 2, .places = placement::one_way(2)};
  for (int rank = 0; rank < 2; ++rank) {
    list_writer list{s, rank};
    list.forward(0);
    if (rank == 0) list.backward(0);  // which needs that rank 1 has gone backward,
    list.forward(0);
    if (rank == 1) list.backward(0);  // and that wants rank 0's next forward first
    list.backward(0);
    s.ranks.push_back(list.take());
  }
  CHECK(
      support::raised([&] { (void)with_transfers(s); }) ==
      "too early: rank 0 can never start the backward of micro-batch 0 in chunk 0, what it needs comes later "
      "or never");
  s.ranks[0][0].of.micro_batch = 2;
  CHECK(support::raised([&] { (void)with_transfers(s); }) ==
        "too early: rank 0, forward of micro-batch 2 in chunk 0: this micro-batch never comes there");
}
