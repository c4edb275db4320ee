// SPDX-License-Identifier: MIT
// Shared memory as instructions name it, and how its tiles are swizzled.
#pragma once

#include <dsv3/base/config.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv3::inline DSV3_ABI::cuda {

/// The address of something in shared memory within its own window.
__device__ __forceinline__ std::uint32_t shared_address(const void* place) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(place));
}

/// The block's dynamic shared memory. One declaration for all kernels: of two in one source that differ in
/// their type the compiler refuses the second.
__device__ __forceinline__ std::byte* dynamic_shared() {
  extern __shared__ __align__(1024) std::byte dynamic_shared_bytes[];
  return dynamic_shared_bytes;
}

/// Where byte `byte` (below 128) of row `row` lies in a tile of 128-byte rows under the 128-byte swizzle: the
/// 16-byte columns of a row change places, so that eight rows of one column meet all banks. The tile starts
/// at a multiple of 1024 bytes. The copy engine writes, and wgmma reads, exactly this.
DSV3_HOST_DEVICE constexpr std::uint32_t swizzle_128(std::uint32_t row, std::uint32_t byte) {
  return row * 128 + (byte ^ (row & 7) << 4);
}

}  // namespace dsv3::inline DSV3_ABI::cuda
