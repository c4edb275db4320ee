// SPDX-License-Identifier: MIT
// What a program can say about GPUs, whether it was built for them or not.
#pragma once

#include <dsv3/exec/paths.hpp>

#include <cstdio>
#include <string>

namespace support {

/// Empty where the program has a backend for this machine's first GPU; otherwise why it has none, in one
/// sentence.
std::string why_no_gpu();
/// That GPU's name.
std::string gpu_name();
/// Whether it runs the kernels of backend::hopper. Raises why_no_gpu().
bool runs_hopper();

/// What --device asks for: cpu, cuda, or auto, which is cuda where there is no reason against it. Raises a
/// usage_error for cuda where there is one.
bool chooses_gpu(const std::string& device);

/// One line at the start of work on that GPU: which path each of its operations runs.
void print_paths(std::FILE* to, const dsv3::path_list& paths);

}  // namespace support
