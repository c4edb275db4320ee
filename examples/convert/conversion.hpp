// SPDX-License-Identifier: MIT
// From a plan to a folder: shard by shard, and on from where a killed run ended.
#pragma once

#include "plan.hpp"

namespace dsv3_convert {

/// Answers the exit code. The folder is complete when its config.json is there; conversion.json, written
/// first, tells what it is made of.
int convert(const request& asked);

}  // namespace dsv3_convert
