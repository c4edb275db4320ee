// SPDX-License-Identifier: MIT
// A program that was built with nvcc.
#include "gpu_trainer.hpp"

#include <support/gpu.hpp>

namespace dsv3_train {

const trainer_kind& gpu_trainer(const std::string& precision) {
  const bool hopper = support::runs_hopper();
  if (precision == "bf16") return hopper ? bf16_hopper_trainer : bf16_gpu_trainer;
  if (precision == "fp8") return hopper ? fp8_hopper_trainer : fp8_gpu_trainer;
  return precision == "fp64" ? fp64_gpu_trainer : fp32_gpu_trainer;
}

}  // namespace dsv3_train
