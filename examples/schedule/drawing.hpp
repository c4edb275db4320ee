// SPDX-License-Identifier: MIT
// A simulated schedule as a picture and as a trace.
#pragma once

#include <dsv3/train/pipeline/simulate.hpp>

#include <string>

namespace drawing {

/// A row per rank, a box per computing with its micro-batch in it; an overlapped pair is a box cut in two.
std::string svg(const dsv3::pipeline::schedule& s, const dsv3::pipeline::simulation& run);

/// What Chrome's trace viewer and Perfetto read: a track per rank, arrows for messages; one unit of time is
/// shown as a millisecond.
std::string chrome_trace(const dsv3::pipeline::schedule& s, const dsv3::pipeline::simulation& run);

}  // namespace drawing
