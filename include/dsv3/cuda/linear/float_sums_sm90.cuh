// SPDX-License-Identifier: MIT
// Sums of a warpgroup to floats in global memory, which they become or are added to: what products that make
// weight gradients end with.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/device/wgmma.cuh>
#include <dsv3/op/linear/store.hpp>
#include <dsv3/tensor/view.hpp>

namespace dsv3::inline DSV3_ABI::cuda::detail {

#if DSV3_SM90A

/// This thread in its warpgroup, read anew: addresses that follow from it are not kept in registers while
/// there are sums in them.
__device__ __forceinline__ int reread_thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread % 128;
}

/// Four neighbours, written or added, without waiting for what was there.
__device__ __forceinline__ void put_four(float* to, const float4& numbers, store into) {
  if (into == store::write)
    *reinterpret_cast<float4*>(to) = numbers;
  else
    asm volatile(
        "red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
        "f"(numbers.x), "f"(numbers.y), "f"(numbers.z), "f"(numbers.w)
        : "memory");
}

/// 64 rows of sums to those of the first `rows` rows and `columns` columns (a multiple of four) that there
/// are: 16 bytes at a time, 64 by a quad. A launch adds to each number once, so there is no order that the
/// sum could depend on.
template <int Columns>
__device__ __forceinline__ void put_sums(const float (&sums)[Columns / 2], float* to, index_t stride,
                                         int rows, int columns, store into) {
  const int thread = reread_thread();
  const bool odd = thread & 1;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = sum_row(thread, half * 2);
    float* place = to + row * stride;
#pragma unroll
    for (int at = half * 2; at < Columns / 2; at += 8) {
      // Of two blocks of eight columns an even lane takes four of the first, an odd one of the second.
      const float first = __shfl_xor_sync(all_lanes, odd ? sums[at] : sums[at + 4], 1),
                  second = __shfl_xor_sync(all_lanes, odd ? sums[at + 1] : sums[at + 5], 1);
      const float4 numbers = odd ? float4{first, second, sums[at + 4], sums[at + 5]}
                                 : float4{sums[at], sums[at + 1], first, second};
      const int column = at / 8 * 16 + (odd ? 8 : 0) + thread % 4 / 2 * 4;
      if (row < rows && column < columns) put_four(place + column, numbers, into);
    }
  }
}

#endif

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
