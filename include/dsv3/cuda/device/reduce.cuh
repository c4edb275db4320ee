// SPDX-License-Identifier: MIT
// Sums and maxima over the lanes of a warp and the threads of a block, in an order that does not change.
#pragma once

#include <dsv3/base/config.hpp>

namespace dsv3::inline DSV3_ABI::cuda {

inline constexpr unsigned all_lanes = 0xFFFFFFFFu;

/// What combines two values; every lane gets the same bits, as the exchange is symmetric.
struct plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
/// NaN wins, as it must be seen.
struct larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

/// Over `Lanes` neighbouring lanes, a power of two.
template <int Lanes = 32, class T, class Combine>
__device__ __forceinline__ T reduce_lanes(T value, Combine combine) {
#pragma unroll
  for (int step = Lanes / 2; step > 0; step /= 2)
    value = combine(value, __shfl_xor_sync(all_lanes, value, step, Lanes));
  return value;
}
template <int Lanes = 32, class T>
__device__ __forceinline__ T sum_lanes(T value) {
  return reduce_lanes<Lanes>(value, plus{});
}
template <int Lanes = 32, class T>
__device__ __forceinline__ T max_lanes(T value) {
  return reduce_lanes<Lanes>(value, larger{});
}

/// Over all threads of a block of whole warps, at most 1024; every thread gets the result. `room` is shared
/// memory for 32 values and may be used again after the next barrier.
template <class T, class Combine>
__device__ T reduce_block(T value, T* room, Combine combine) {
  value = reduce_lanes(value, combine);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (warps == 1) return value;
  if (lane == 0) room[warp] = value;
  __syncthreads();
  value = room[0];
  for (unsigned w = 1; w < warps; ++w) value = combine(value, room[w]);
  __syncthreads();
  return value;
}

}  // namespace dsv3::inline DSV3_ABI::cuda
