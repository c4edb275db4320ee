// SPDX-License-Identifier: MIT
#include "run.hpp"

#include <support/gpu.hpp>
#include <support/gpu_place.cuh>

template <>
void generate::run_on_gpu<dsv3::fp32>(const request& asked) {
  run_at<dsv3::fp32, support::gpu_place<dsv3::backend::cuda>>(asked);
}
