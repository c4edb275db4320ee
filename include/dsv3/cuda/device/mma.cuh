// SPDX-License-Identifier: MIT
// Matrix units of compute capability 8.0 and later, as one warp uses them: 16 x 8 x 16 products of bf16
// summed in float, fragments loaded from shared memory, and copies from global to shared memory in the
// background.
#pragma once

#include <dsv3/cuda/device/shared.cuh>
#include <dsv3/number/bf16.hpp>

#include <cuda_runtime.h>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::cuda {

// ---- who holds what of a product D (16 x 8) += A (16 x 16) · B (16 x 8) -----------------------------------

/// Of D a lane holds d[0..3]: row fragment_row(lane) + 8 * (i / 2), column fragment_column(lane) + i % 2. The
/// four lanes of a quad share two rows.
/// Of A a lane holds a[0..3], pairs of neighbouring columns: a[i] is row fragment_row(lane) + 8 * (i % 2),
/// columns fragment_column(lane) + 8 * (i / 2) and the next. Two neighbouring D, packed, are therefore an A.
/// Of B a lane holds b[0..1], pairs of neighbouring rows: b[i] is rows fragment_column(lane) + 8 * i and the
/// next, column fragment_row(lane).
__host__ __device__ constexpr int fragment_row(int lane) { return lane / 4; }
__host__ __device__ constexpr int fragment_column(int lane) { return lane % 4 * 2; }

/// d += a · b.
__device__ __forceinline__ void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two floats rounded to nearest as neighbouring bf16: `low` at the lower address.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
/// The two floats of neighbouring bf16.
__device__ __forceinline__ float2 unpack_bf16(std::uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u)};
}

// ---- fragments from shared memory -------------------------------------------------------------------------

/// Two or four 8 x 8 matrices of bf16. Lane 8 i + r gives the address (a multiple of 16) of row r of matrix
/// i; a lane receives of matrix i, in part[i], row fragment_row(lane), columns fragment_column(lane) and the
/// next. For four matrices that are the quarters of a row-major 16 x 16 block, in the order of tile_row and
/// tile_column below, the parts are an A; where a block holds Bᵀ, rows n and columns k, parts 0 and 2 are the
/// B of its first eight rows, 1 and 3 of the others.
__device__ __forceinline__ void load_matrices(std::uint32_t (&part)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(part[0]), "=r"(part[1]), "=r"(part[2]), "=r"(part[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices(std::uint32_t (&part)[2], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(part[0]), "=r"(part[1])
               : "r"(address)
               : "memory");
}
/// The same with every 8 x 8 matrix transposed on the way. Where a block holds B, rows k and columns n, parts
/// 0 and 1 are the B of its first eight columns, 2 and 3 of the others; where it holds Aᵀ, the parts 0, 2, 1,
/// 3 are the A.
__device__ __forceinline__ void load_transposed(std::uint32_t (&part)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(part[0]), "=r"(part[1]), "=r"(part[2]), "=r"(part[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_transposed(std::uint32_t (&part)[2], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(part[0]), "=r"(part[1])
               : "r"(address)
               : "memory");
}

/// Which row of a 16 x 16 block a lane gives the address of, and from which column on.
__host__ __device__ constexpr int tile_row(int lane) { return lane % 16; }
__host__ __device__ constexpr int tile_column(int lane) { return lane / 16 * 8; }

// ---- copies in the background -----------------------------------------------------------------------------

/// 16 bytes from global to shared memory, both addresses multiples of 16. Where not `wanted`, zeros are
/// written and nothing is read; `from` must still be a valid address.
__device__ __forceinline__ void copy_async(std::uint32_t to, const void* from, bool wanted = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(wanted ? 16 : 0)
               : "memory");
}
/// The same with the first `bytes` of them, 0 to 16; zeros follow.
__device__ __forceinline__ void copy_async_part(std::uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
/// 4 bytes, both addresses multiples of 4.
__device__ __forceinline__ void copy_async_word(std::uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
/// Closes the group of copies begun since the last call.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `Pending` of this thread's groups are under way. Others see them after a barrier.
template <int Pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace dsv3::inline DSV3_ABI::cuda
