// SPDX-License-Identifier: MIT
// A rank of MPI's, run by mpi_test.sh: what every engine must do, and ranks that fail in the way the first
// argument names.
#include <dsv3/comm/mpi.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "comm/communicator_cases.hpp"

using dsv3::any_communicator;
using dsv3::reduction;

// How rank 1 disturbs the others, who go on reducing.
static void disturb(const any_communicator& comm, const std::string& how) {
  dsv3::cpu_context<> ctx;
  const dsv3::comm_scope step{comm.journal(), {.step = 7, .layer = 2}};
  std::vector<float> x(1000);
  comm.all_reduce(ctx, cases::all_of(x), reduction::sum);
  if (comm.rank() == 1) {
    if (how == "killed") std::raise(SIGKILL);
    if (how == "stopped") std::raise(SIGSTOP);
    if (how == "raises") dsv3::raise("the third shard is missing");
    if (how == "aborts") comm.engine()->abort("the disk is full");
    if (how == "leaves") std::_Exit(0);
    if (how == "differs") x.resize(5);
    if (how == "sends") return comm.send(ctx, cases::read(x), 0);
    if (how == "calls") return comm.barrier();
  }
  if (how == "sends" && comm.rank() == 0) {
    x.resize(10);
    return comm.receive(ctx, cases::all_of(x), 1);
  }
  for (;;) comm.all_reduce(ctx, cases::all_of(x), reduction::sum);
}

// The launcher ends the others when a rank has died: they say what they were about.
static const dsv3::comm_journal* journal = nullptr;
static void report(int) {
  journal->write_to(2);
  std::_Exit(4);
}

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "cases";
  // Pieces and blocks that the cases' larger arrays are made of many of.
  dsv3::mpi_options options;
  if (what == "cases") options = {.largest_message = 50000, .largest_block = 100000};
  options.limit = std::chrono::seconds(argc > 2 ? std::atoi(argv[2]) : 60);
  const dsv3::mpi_ranks ranks{options};
  const any_communicator& world = ranks.world();
  journal = world.journal();
  std::signal(SIGTERM, report);
  const dsv3::status answer = dsv3::attempt([&] {
    ranks.run([&](const any_communicator& comm) {
      if (what == "cases") {
        cases::every_verb(comm);
        cases::transfers_beside(comm, 30);
      } else if (what == "exchanges")
        cases::random_exchanges(comm, 1000, 5);
      else
        disturb(comm, what);
    });
  });
  if (!answer.good()) {
    std::fprintf(stderr, "rank %d ends: %s\n%s", world.rank(), answer.message().c_str(),
                 world.journal()->report(3).c_str());
    return 3;
  }
  if (world.rank() == 0) std::printf("%s: %d ranks agree\n", what.c_str(), world.size());
}
