// SPDX-License-Identifier: MIT
#include "gpu.hpp"

#include "command_line.hpp"

bool support::chooses_gpu(const std::string& device) {
  if (device == "cpu") return false;
  const std::string reason = why_no_gpu();
  if (device == "cuda" && !reason.empty()) throw usage_error("--device is cuda: " + reason);
  return reason.empty();
}

void support::print_paths(std::FILE* to, const dsv3::path_list& paths) {
  std::fprintf(to, "%s runs %s\n", gpu_name().c_str(), paths.line().c_str());
  std::fflush(to);
}
