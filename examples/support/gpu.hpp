// SPDX-License-Identifier: MIT
// What a program can say about GPUs, whether it was built for them or not.
#pragma once

#include <string>

namespace support {

/// Empty where the program has a backend for this machine's first GPU; otherwise why it has none, in one
/// sentence.
std::string why_no_gpu();
/// That GPU, and whose kernels it runs: "NVIDIA H100 80GB HBM3 (Hopper's kernels)".
std::string described_gpu();
/// Whether it runs the kernels of backend::hopper. Raises why_no_gpu().
bool runs_hopper();

/// What --device asks for: cpu, cuda, or auto, which is cuda where there is no reason against it. Raises a
/// usage_error for cuda where there is one.
bool chooses_gpu(const std::string& device);

}  // namespace support
