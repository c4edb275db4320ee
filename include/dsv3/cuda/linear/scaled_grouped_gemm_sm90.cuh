// SPDX-License-Identifier: MIT
// The experts' products over scaled tiles on Hopper's copy and matrix engines: all experts in one persistent
// launch, by counts on the device.
#pragma once

#include <dsv3/cuda/linear/scaled_gemm_sm90.cuh>
#include <dsv3/cuda/linear/scaled_grouped_gemm.cuh>

namespace dsv3::inline DSV3_ABI {

template <class P, class Gradient>
struct implementation<op::scaled_grouped_gemm<P, Gradient>, backend::hopper>
    : cuda::detail::scaled_products_on_hopper<op::scaled_grouped_gemm<P, Gradient>, P, Gradient> {};

}  // namespace dsv3::inline DSV3_ABI
