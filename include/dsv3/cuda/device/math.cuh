// SPDX-License-Identifier: MIT
// Elementary functions as kernels want them.
#pragma once

#include <dsv3/base/config.hpp>

namespace dsv3::inline DSV3_ABI::cuda {

/// 1 / (1 + exp(-x)); NaN stays NaN, the ends of the range are 0 and 1.
__device__ __forceinline__ double sigmoid(double x) { return 1 / (1 + exp(-x)); }
/// From the hardware's exponential and reciprocal: within 2^-20 of itself where |x| < 10, which beside two
/// rounded factors nobody sees; below -87.3 it is 0.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

/// Exponentials to base 2 are one instruction.
inline constexpr float log2_of_e = 1.44269504088896340736f, ln_of_2 = 0.69314718055994530942f;
__device__ __forceinline__ float exp2_approximately(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace dsv3::inline DSV3_ABI::cuda
