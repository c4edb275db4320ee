// SPDX-License-Identifier: MIT
// The second half of a sum over everything: adding what the blocks of a first kernel left.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/tensor/view.hpp>

namespace dsv3::inline DSV3_ABI::cuda {

namespace detail {
template <class Number>
__global__ void add_sum_kernel(const Number* parts, index_t count, Number factor, Number* sum) {
  __shared__ Number room[32];
  Number mine = 0;
#pragma unroll 8
  for (index_t i = threadIdx.x; i < count; i += blockDim.x) mine += parts[i];
  const Number all = reduce_block(mine, room, plus{});
  if (threadIdx.x == 0) *sum += factor * all;
}
}  // namespace detail

/// sum[0] += factor · Σ parts, by one block, in an order that depends on the number of parts alone.
inline void add_sum(const char* name, cudaStream_t stream, const view<double, 1>& parts, double factor,
                    double* sum) {
  launch(name, stream, {.block = 1024}, detail::add_sum_kernel<double>, parts.data(), parts.extent(0), factor,
         sum);
}

}  // namespace dsv3::inline DSV3_ABI::cuda
