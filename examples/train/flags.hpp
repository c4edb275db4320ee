// SPDX-License-Identifier: MIT
// From the command line to settings and text; the only part that knows the flags.
#pragma once

#include "settings.hpp"

#include <dsv3/train/data.hpp>

namespace dsv3_train {

/// Reads flags, model config and text, then acts. The answer is main's: 2 for a call that makes no sense, 1
/// for work that failed, otherwise what `act` answers.
int with_settings(int argc, char** argv, int (*act)(const run_settings&, const dsv3::training_data&));

}  // namespace dsv3_train
