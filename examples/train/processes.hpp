// SPDX-License-Identifier: MIT
// Ranks that a launcher has started as processes of this program.
#pragma once

#include <dsv3/comm/any_communicator.hpp>

#include <functional>

namespace dsv3_train {

/// Runs the work of this process's rank, once in a program. Raises where it was built without MPI, and where
/// MPI knows another number of ranks than the launcher.
int on_processes(int expected, const std::function<int(const dsv3::any_communicator& world)>& work);

}  // namespace dsv3_train
