// SPDX-License-Identifier: MIT
// One file of the new folder: written from the source, and compared with what was planned.
#pragma once

#include "plan.hpp"

#include <dsv3/base/error.hpp>

#include <cstdint>
#include <functional>
#include <string>

namespace dsv3_convert {

/// Told of bytes of the source that are done; from any thread.
using progress = std::function<void(std::uint64_t)>;

/// Writes the file into `folder`. Threads take tensors; each holds 128 rows of one at a time.
void write_shard(const std::string& folder, const planned_shard& shard, const request& asked,
                 const progress& done);

/// Reads the file again. Good where it holds the planned tensors, each with the checksum taken while writing,
/// and where codes that were made here are made of what they stand for once more, with the same scales.
dsv3::status verify_shard(const std::string& folder, const planned_shard& shard, int threads);

}  // namespace dsv3_convert
