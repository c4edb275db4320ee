// SPDX-License-Identifier: MIT
// A program that was built without nvcc.
#include "gpu.hpp"

#include <dsv3/base/error.hpp>

namespace support {

std::string why_no_gpu() {
  return "this program was built without CUDA, expected a build with -DDSV3_CUDA=ON";
}
std::string gpu_name() { return {}; }
bool runs_hopper() { dsv3::raise(why_no_gpu()); }

}  // namespace support
