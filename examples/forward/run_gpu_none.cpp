// SPDX-License-Identifier: MIT
// A program that was built without nvcc.
#include "request.hpp"

#include <support/gpu.hpp>

#include <dsv3/base/error.hpp>

template <dsv3::precision P>
void forward::run_on_gpu(const request&) {
  dsv3::raise(support::why_no_gpu());
}

template void forward::run_on_gpu<dsv3::fp32>(const request&);
template void forward::run_on_gpu<dsv3::bf16_mixed>(const request&);
template void forward::run_on_gpu<dsv3::fp8_tilewise>(const request&);
template void forward::run_on_gpu<dsv3::fp64_reference>(const request&);
