// SPDX-License-Identifier: MIT
// One tile of a bf16 product on the matrix units of compute capability 8.0 and later: 128 x 128 sums by 256
// threads, operands brought in the background, in either orientation.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/cuda/device/mma.cuh>
#include <dsv3/cuda/device/vector.cuh>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

inline constexpr int mma_tile = 128, mma_depth = 64, mma_threads = 256, mma_stages = 3;
inline constexpr int mma_operand_bytes = mma_tile * mma_depth * 2;
inline constexpr int mma_shared_bytes = 2 * mma_stages * mma_operand_bytes;

/// A matrix [outer, sum] whose sums are contiguous, or [sum, outer] turned. Rows start at multiples of 16
/// bytes.
struct mma_operand {
  const bf16* data;  // of the tile's first row, or column if turned
  index_t stride;
  int outer;  // rows or columns there are from `data` on
  int depth;  // terms of the sum
};

/// 128 x 128 sums of a · bᵀ; warps stand two by four.
struct mma_sums {
  float at[4][4][4];  // blocks of 16 rows, of 8 columns, and what a lane holds of them

  __device__ static int row(int block, int i) {
    return static_cast<int>(threadIdx.x) / 128 * 64 + block * 16 + fragment_row(threadIdx.x % 32) + i / 2 * 8;
  }
  /// Of the first of a pair of columns.
  __device__ static int column(int block) {
    return static_cast<int>(threadIdx.x) / 32 % 4 * 32 + block * 8 + fragment_column(threadIdx.x % 32);
  }
};

// ---- kernels ----------------------------------------------------------------------------------------------

/// Terms [l, l + mma_depth) of an operand into `to`: 128 rows of 128 bytes, or turned two panels of 64 rows;
/// zeros where there is nothing.
template <bool Turned>
__device__ __forceinline__ void load_operand(const mma_operand& x, int l, std::uint32_t to) {
  const unsigned line = threadIdx.x / 8,
                 chunk = threadIdx.x % 8;  // a pass takes 32 lines, at most 64 a panel
  to += swizzle_128(line, chunk * 16);
  const int row = (Turned ? l : 0) + static_cast<int>(line),
            column = (Turned ? 0 : l) + static_cast<int>(chunk * 8);
  const int rows = Turned ? x.depth : x.outer, columns = Turned ? x.outer : x.depth;
  const bf16* from = x.data + row * x.stride + column;
#pragma unroll
  for (int i = 0; i < mma_operand_bytes / 16 / mma_threads; ++i) {
    const int down = Turned ? i % 2 * 32 : i * 32, right = Turned ? i / 2 * 64 : 0;
    const int bytes = row + down < rows ? min(max(columns - column - right, 0), 8) * 2 : 0;
    copy_async_part(to + static_cast<std::uint32_t>(i * 32 * 128),
                    bytes > 0 ? from + down * x.stride + right : x.data, bytes);
  }
}

/// The fragments of 16 x 16 of a tile: outer index from `outer` on, terms from `l` on. In `part` as
/// load_matrices gives them: quarters (upper, lower) of the first eight terms, then of the others.
template <bool Turned>
__device__ __forceinline__ void load_fragment(std::uint32_t (&part)[4], std::uint32_t tile, unsigned outer,
                                              unsigned l) {
  const unsigned lane = threadIdx.x % 32, row = lane % 16, column = lane / 16 * 8;
  if constexpr (Turned) {
    const unsigned across = outer + column;
    std::uint32_t turned[4];
    load_transposed(turned, tile + swizzle_128(across / 64 * 64 + l + row, across % 64 * 2));
    part[0] = turned[0], part[1] = turned[2], part[2] = turned[1], part[3] = turned[3];
  } else {
    load_matrices(part, tile + swizzle_128(outer + row, (l + column) * 2));
  }
}

/// sums = a · bᵀ by all threads of the block; `shared` has mma_shared_bytes at a multiple of 1024.
template <bool TurnedA, bool TurnedB>
__device__ void multiply_mma(const mma_operand& a, const mma_operand& b, std::uint32_t shared,
                             mma_sums& sums) {
  const unsigned warp = threadIdx.x / 32, row = warp / 4 * 64, column = warp % 4 * 32;
  const int steps = (a.depth + mma_depth - 1) / mma_depth;
  const auto load = [&](int step) {
    if (step < steps) {
      const std::uint32_t to = shared + static_cast<std::uint32_t>(step % mma_stages * 2 * mma_operand_bytes);
      load_operand<TurnedA>(a, step * mma_depth, to);
      load_operand<TurnedB>(b, step * mma_depth, to + mma_operand_bytes);
    }
    commit_copies();
  };
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums.at[i][j][e] = 0;
#pragma unroll 1
  for (int step = 0; step < mma_stages - 1; ++step) load(step);
  for (int step = 0; step < steps; ++step) {
    wait_copies<mma_stages - 2>();
    __syncthreads();  // this step has come for all, and all have left the stage that is loaded next
    load(step + mma_stages - 1);
    const std::uint32_t tile = shared + static_cast<std::uint32_t>(step % mma_stages * 2 * mma_operand_bytes);
#pragma unroll
    for (unsigned l = 0; l < mma_depth; l += 16) {
      std::uint32_t right[2][4];
#pragma unroll
      for (int j = 0; j < 2; ++j)
        load_fragment<TurnedB>(right[j], tile + mma_operand_bytes, column + j * 16, l);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        std::uint32_t left[4];
        load_fragment<TurnedA>(left, tile, row + i * 16, l);
#pragma unroll
        for (int j = 0; j < 4; ++j) mma(sums.at[i][j], left, right[j / 2][j % 2], right[j / 2][j % 2 + 2]);
      }
    }
  }
  wait_copies<0>();
  __syncthreads();
}

/// Writes the sums that lie within m rows and n columns to `d`, its first row and column, or adds them.
template <bool Add, class D>
__device__ void store_sums(const mma_sums& sums, D* d, index_t stride, int m, int n) {
  const bool pairs = stride % 2 == 0 && reinterpret_cast<std::uintptr_t>(d) % (2 * sizeof(D)) == 0;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = mma_sums::row(i, half * 2);
      if (row >= m) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = mma_sums::column(j);
        D* to = d + row * stride + column;
        const float* sum = sums.at[i][j] + half * 2;
        if (pairs && column + 1 < n) {
          pack<D, 2> pair = {};
          if (Add) pair = load_pack<2>(to);
#pragma unroll
          for (int e = 0; e < 2; ++e) pair[e] = D(Add ? static_cast<float>(pair[e]) + sum[e] : sum[e]);
          store_pack(to, pair);
        } else {
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (column + e < n) to[e] = D(Add ? static_cast<float>(to[e]) + sum[e] : sum[e]);
        }
      }
    }
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
