// SPDX-License-Identifier: MIT
// A program that was built without nvcc.
#include "gpu_trainer.hpp"

#include <support/gpu.hpp>

#include <dsv3/base/error.hpp>

const dsv3_train::trainer_kind& dsv3_train::gpu_trainer(const std::string&) {
  dsv3::raise(support::why_no_gpu());
}
