// SPDX-License-Identifier: MIT
#include "run.hpp"

#include <support/gpu.hpp>
#include <support/gpu_place.cuh>

template <>
void forward::run_on_gpu<dsv3::fp8_tilewise>(const request& asked) {
  if (support::runs_hopper())
    return run_at<dsv3::fp8_tilewise, support::gpu_place<dsv3::backend::hopper>>(asked);
  run_at<dsv3::fp8_tilewise, support::gpu_place<dsv3::backend::cuda>>(asked);
}
