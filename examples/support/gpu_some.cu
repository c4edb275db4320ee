// SPDX-License-Identifier: MIT
// A program that was built with nvcc.
#include "gpu.hpp"

#include <dsv3/cuda/host/device.cuh>

namespace support {

std::string why_no_gpu() {
  try {
    const dsv3::cuda::device gpu;
    return {};
  } catch (const dsv3::error& refusal) {
    return refusal.what();
  }
}

std::string gpu_name() { return dsv3::cuda::device{}.name(); }

bool runs_hopper() { return dsv3::cuda::device{}.is_hopper(); }

}  // namespace support
