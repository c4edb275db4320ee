// SPDX-License-Identifier: MIT
// Processes of MPI.
#include "processes.hpp"

#include <dsv3/comm/mpi.hpp>

#include <string>

int dsv3_train::on_processes(int expected, const std::function<int(const dsv3::any_communicator&)>& work) {
  const dsv3::mpi_ranks ranks;
  int answer = 0;
  ranks.run([&](const dsv3::any_communicator& world) {
    if (world.size() != expected)
      dsv3::raise("ranks: the launcher started " + std::to_string(expected) + " processes, MPI knows " +
                  std::to_string(world.size()) + ": expected its own launcher, mpirun");
    answer = work(world);
  });
  return answer;
}
