// SPDX-License-Identifier: MIT
// A rank of MPI's, run by mpi_test.sh: every schedule that as many ranks can have.
#include <dsv3/comm/mpi.hpp>
#include <dsv3/train/pipeline/methods.hpp>

#include <train/pipeline/toy_stages.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>

int main() {
  const dsv3::mpi_ranks ranks{{.limit = std::chrono::seconds(30)}};
  const dsv3::any_communicator& world = ranks.world();
  const dsv3::status answer = dsv3::attempt([&] {
    for (const dsv3::pipeline::method& each : dsv3::pipeline::methods)
      for (const int micro_batches : {2 * world.size(), 4 * world.size() + 6}) {
        if (!each.check(world.size(), micro_batches)) continue;
        toy::run_and_compare(dsv3::pipeline::executor{each.make(world.size(), micro_batches)}, world);
        if (world.rank() == 0) std::printf("%s of %d micro-batches\n", each.name, micro_batches);
      }
  });
  if (answer.good()) return 0;
  std::fprintf(stderr, "rank %d ends: %s\n", world.rank(), answer.message().c_str());
  world.engine()->abort(answer.message());
  std::_Exit(3);
}
