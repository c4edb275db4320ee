// SPDX-License-Identifier: MIT
// The copy engine of compute capability 9.0: boxes of tensors and stretches of bytes between global and
// shared memory. One thread asks; loads report their bytes to an mbarrier, stores to the thread's groups.
//
// Maps come from cuda/host/tensor_map.cuh and go to kernels as `const __grid_constant__ CUtensorMap`.
// Coordinates are in elements, innermost first, and may lie outside: zeros are loaded there, nothing is
// stored.
#pragma once

#include <dsv3/cuda/device/mbarrier.cuh>

#include <cuda.h>

namespace dsv3::inline DSV3_ABI::cuda {

/// How long the second-level cache should keep what is copied.
enum class keep_in_l2 : std::uint64_t {
  normal = 0x1000000000000000,
  briefly = 0x12F0000000000000,  // read once
  longer = 0x14F0000000000000,   // read again soon by others
};

#if DSV3_SM90A

/// Once a kernel, by one thread.
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// ---- loads: `full` gets the bytes of the whole box

__device__ __forceinline__ void load_box(void* to, const CUtensorMap& map, mbarrier& full, int c0, int c1,
                                         keep_in_l2 keep = keep_in_l2::normal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(&full)), "r"(c0), "r"(c1), "l"(static_cast<std::uint64_t>(keep))
      : "memory");
}
__device__ __forceinline__ void load_box(void* to, const CUtensorMap& map, mbarrier& full, int c0, int c1,
                                         int c2, keep_in_l2 keep = keep_in_l2::normal) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(&full)), "r"(c0), "r"(c1), "r"(c2), "l"(static_cast<std::uint64_t>(keep))
      : "memory");
}
/// To the same place of all blocks in `blocks`, a bit for each rank; each one's own `full` gets the bytes.
__device__ __forceinline__ void load_box_to_all(void* to, const CUtensorMap& map, mbarrier& full,
                                                unsigned short blocks, int c0, int c1,
                                                keep_in_l2 keep = keep_in_l2::normal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%4, %5}], [%2], %3, %6;" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(&full)), "h"(blocks), "r"(c0), "r"(c1),
      "l"(static_cast<std::uint64_t>(keep))
      : "memory");
}
__device__ __forceinline__ void load_box_to_all(void* to, const CUtensorMap& map, mbarrier& full,
                                                unsigned short blocks, int c0, int c1, int c2,
                                                keep_in_l2 keep = keep_in_l2::normal) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%4, %5, %6}], [%2], %3, %7;" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(&full)), "h"(blocks), "r"(c0), "r"(c1), "r"(c2),
      "l"(static_cast<std::uint64_t>(keep))
      : "memory");
}
/// `bytes` and both addresses are multiples of 16.
__device__ __forceinline__ void load_bytes(void* to, const void* from, unsigned bytes, mbarrier& full) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(&full))
      : "memory");
}

// ---- stores: after publish_shared() by every writer and a barrier

__device__ __forceinline__ void store_box(const CUtensorMap& map, const void* from, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(shared_address(from)), "r"(c0), "r"(c1)
               : "memory");
}
__device__ __forceinline__ void store_box(const CUtensorMap& map, const void* from, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(shared_address(from)), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
/// Adds in the arithmetic of the map's element type.
__device__ __forceinline__ void add_box(const CUtensorMap& map, const void* from, int c0, int c1) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
      "r"(shared_address(from)), "r"(c0), "r"(c1)
      : "memory");
}
__device__ __forceinline__ void add_box(const CUtensorMap& map, const void* from, int c0, int c1, int c2) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(
          &map),
      "r"(shared_address(from)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
__device__ __forceinline__ void store_bytes(void* to, const void* from, unsigned bytes) {
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(to)),
      "r"(shared_address(from)), "r"(bytes)
      : "memory");
}
/// Adds `bytes` / 4 numbers. Deterministic only where each place is added to once between other orders.
__device__ __forceinline__ void add_floats(float* to, const float* from, unsigned bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(to)),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}

/// Closes a group of this thread's stores.
__device__ __forceinline__ void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Until at most `Groups` of this thread's groups have not yet read their shared memory.
template <int Groups = 0>
__device__ __forceinline__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Groups) : "memory");
}
/// Until at most `Groups` are not yet in global memory.
template <int Groups = 0>
__device__ __forceinline__ void wait_stores() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Groups) : "memory");
}

#endif

}  // namespace dsv3::inline DSV3_ABI::cuda
