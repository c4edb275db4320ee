// SPDX-License-Identifier: MIT
// A program that was built without MPI.
#include "processes.hpp"

#include <dsv3/base/error.hpp>

int dsv3_train::on_processes(int, const std::function<int(const dsv3::any_communicator&)>&) {
  dsv3::raise("ranks: this program was built without MPI, expected --ranks alone or a build with MPI");
}
