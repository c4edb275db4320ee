// SPDX-License-Identifier: MIT
// Ranks as threads: what every engine must do, and how they end when one of them fails.
#include <dsv3/comm/threads.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <stdexcept>

#include "comm/communicator_cases.hpp"

using namespace std::chrono_literals;
using dsv3::any_communicator;
using dsv3::reduction;
using dsv3::thread_ranks;
using dsv3::view;

TEST_CASE("every verb, from one rank to eight") {
  for (int ranks = 1; ranks <= 8; ++ranks) {
    CAPTURE(ranks);
    std::atomic<int> ran = 0;
    thread_ranks{ranks}.run([&](const any_communicator& comm) {
      CHECK(comm.size() == ranks);
      cases::every_verb(comm);
      ++ran;
    });
    CHECK(ran == ranks);
  }
}

TEST_CASE("a thousand mixed exchanges") {
  for (const int ranks : {1, 2, 5})
    thread_ranks{ranks}.run([](const any_communicator& comm) { cases::random_exchanges(comm, 1000, 7); });
}

TEST_CASE("messages travel beside collectives") {
  for (const int ranks : {1, 2, 4})
    thread_ranks{ranks}.run([](const any_communicator& comm) { cases::transfers_beside(comm, 50); });
}

TEST_CASE("a group works on while another does") {
  thread_ranks{4}.run([](const any_communicator& comm) {
    const any_communicator half = comm.split(comm.rank() / 2, 0);
    cases::random_exchanges(half, comm.rank() < 2 ? 30 : 200, 11);
    cases::reductions<double>(comm, 100);
  });
}

// What run() raises. Only who waits for the limit gives one: the machine may be busy.
template <class Work>
std::string failure_of(int ranks, Work&& work, std::chrono::milliseconds limit = 60s) {
  std::string sentence = "nothing";
  try {
    thread_ranks{ranks, limit}.run(work);
  } catch (const std::exception& failure) {
    sentence = failure.what();
  }
  return sentence;
}

TEST_CASE("ranks that ask for different things are told so") {
  dsv3::cpu_context<> ctx;
  CHECK(
      failure_of(3,
                 [&](const any_communicator& comm) {
                   std::vector<float> x(comm.rank() == 2 ? 5 : 4);
                   comm.all_reduce(ctx, cases::all_of(x), reduction::sum);
                 })
          .find(
              "finds that rank 2 calls all_reduce of 20 bytes, sum of float, rank 0 all_reduce of 16 bytes, "
              "sum of float") != std::string::npos);
  CHECK(
      failure_of(2,
                 [&](const any_communicator& comm) {
                   std::vector<float> x(4);
                   comm.all_reduce(ctx, cases::all_of(x), comm.rank() == 0 ? reduction::sum : reduction::max);
                 })
          .find(
              "finds that rank 1 calls all_reduce of 16 bytes, max of float, rank 0 all_reduce of 16 bytes, "
              "sum of float") != std::string::npos);
  CHECK(failure_of(2,
                   [&](const any_communicator& comm) {
                     std::vector<float> x(4);
                     if (comm.rank() == 0)
                       comm.broadcast(ctx, cases::all_of(x), 0);
                     else
                       comm.barrier();
                   })
            .find("finds that rank 1 calls barrier of 0 bytes, rank 0 broadcast of 16 bytes from rank 0") !=
        std::string::npos);
  CHECK(failure_of(2, [&](const any_communicator& comm) {
          std::vector<float> x(comm.rank() == 0 ? 4 : 3);
          if (comm.rank() == 0)
            comm.send(ctx, cases::read(x), 1);
          else
            comm.receive(ctx, cases::all_of(x), 0);
        }) == "threads: rank 1 of 2 expects 12 bytes from rank 0 in exchange, which sends 16");
  CHECK(failure_of(1, [&](const any_communicator& comm) {
          const std::vector<std::byte> bytes(2);
          const dsv3::outgoing_message out = cases::to(0, bytes);
          comm.exchange(ctx, {&out, 1}, {});
        }) == "threads: rank 0 of 1 sends more messages to itself than it receives of its own in exchange");
  CHECK(failure_of(1, [&](const any_communicator& comm) {
          std::vector<std::byte> bytes(2);
          const dsv3::incoming_message in = cases::from(0, bytes);
          comm.exchange(ctx, {}, {&in, 1});
        }) == "threads: rank 0 of 1 receives more messages of its own than it sends itself in exchange");
}

TEST_CASE("nobody waits for a rank that does not come") {
  dsv3::cpu_context<> ctx;
  CHECK(failure_of(2, [&](const any_communicator& comm) {
          if (comm.rank() == 0) comm.barrier();
        }) == "threads: rank 0 of 2 waits in barrier for rank 1, which has ended");
  // Two ranks that each wait for the other to take what it sends.
  const std::string both = failure_of(
      2,
      [&](const any_communicator& comm) {
        const std::vector<float> x(4);
        comm.send(ctx, cases::read(x), 1 - comm.rank());
      },
      1s);
  CHECK(both.find("waits in exchange for rank ") != std::string::npos);
  CHECK(both.find(" to take 16 bytes since 1 s; that rank was last in exchange") != std::string::npos);
  CHECK(failure_of(
            3,
            [&](const any_communicator& comm) {
              std::vector<float> x(4);
              if (comm.rank() == 1)
                comm.receive(ctx, cases::all_of(x), 0);
              else
                comm.barrier();
            },
            1s)
            .find("since 1 s; that rank was last in ") != std::string::npos);
  // In a group of a group the sentence names the rank in both.
  CHECK(failure_of(4, [&](const any_communicator& comm) {
          const any_communicator group = comm.split(comm.rank() % 2, 0);
          if (comm.rank() != 1) group.barrier();
        }) == "threads: rank 1 of 2 (3 of all) waits in barrier for rank 0, which has ended");
}

TEST_CASE("the first failure ends all ranks and is what run() throws") {
  for (int failing = 0; failing < 4; ++failing) {
    std::atomic<int> ended = 0;
    CHECK_THROWS_WITH_AS(thread_ranks{4}.run([&](const any_communicator& comm) {
      struct count {
        std::atomic<int>& of;
        ~count() { ++of; }
      } at_the_end{ended};
      dsv3::cpu_context<> ctx;
      std::vector<float> x(1000);
      comm.all_reduce(ctx, cases::all_of(x), reduction::sum);
      if (comm.rank() == failing) throw std::out_of_range("the third shard");
      if (comm.rank() % 2 == 0)
        comm.barrier();
      else
        comm.receive(ctx, cases::all_of(x), failing);
    }),
                         "the third shard", std::out_of_range);
    CHECK(ended == 4);
  }
  // Whoever is stopped says where it was and why.
  std::string other;
  CHECK_THROWS(thread_ranks{2}.run([&](const any_communicator& comm) {
    if (comm.rank() == 1) dsv3::raise("no more data");
    const dsv3::status answer = dsv3::attempt([&] { comm.barrier(); });
    other = answer.message();
  }));
  CHECK(other == "threads: rank 0 of 2 is stopped in barrier: rank 1 failed: no more data");
}

TEST_CASE("an engine can be told to stop") {
  CHECK(failure_of(2, [&](const any_communicator& comm) {
          if (comm.rank() == 1)
            comm.engine()->abort("the disk is full");
          else
            comm.barrier();
        }) == "the disk is full");
}

TEST_CASE("arguments are checked before anybody waits") {
  dsv3::cpu_context<> ctx;
  CHECK_THROWS_WITH_AS(thread_ranks{0}, "threads: found 0 ranks, expected at least one", dsv3::error);
  const auto refused = [&](auto&& call) {
    return failure_of(2, [&](const any_communicator& comm) { call(comm); });
  };
  std::vector<float> x(4), y(3);
  CHECK(refused([&](auto& comm) { comm.all_gather(ctx, cases::read(y), cases::all_of(x)); }) ==
        "all_gather: 4 elements, expected 2 ranks times 3");
  CHECK(refused([&](auto& comm) { comm.all_to_all(ctx, cases::read(y), cases::all_of(y)); }) ==
        "all_to_all: from 3 to 3 elements, expected as many, and a multiple of the 2 ranks");
  CHECK(refused([&](auto& comm) { comm.broadcast(ctx, cases::all_of(x), 2); }) ==
        "broadcast: names rank 2, there are 2");
  CHECK(refused([&](auto& comm) {
          if (comm.rank() == 0) comm.send(ctx, cases::read(x), 0);
        }) == "send: names rank 0, itself");
}
