// SPDX-License-Identifier: MIT
// The trainers for GPUs, of programs that were built with them.
#pragma once

#include "trainer.hpp"

#include <string>

namespace dsv3_train {

/// Of this machine's first GPU. Raises where support::why_no_gpu() has a reason.
const trainer_kind& gpu_trainer(const std::string& precision);

// What it chooses from.
extern const trainer_kind fp32_gpu_trainer, bf16_gpu_trainer, fp8_gpu_trainer, fp64_gpu_trainer,
    bf16_hopper_trainer, fp8_hopper_trainer;

// One source file compiles each precision. In single and double precision Hopper has no kernels of its own.
extern const trainer_kind fp32_gpu_trainer, bf16_gpu_trainer, fp8_gpu_trainer, fp64_gpu_trainer,
    bf16_hopper_trainer, fp8_hopper_trainer;

}  // namespace dsv3_train
