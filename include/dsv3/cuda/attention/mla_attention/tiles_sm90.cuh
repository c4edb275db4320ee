// SPDX-License-Identifier: MIT
// What the kernels of latent attention for compute capability 9.0a share: which tile a block computes, tiles
// in shared memory as panels of 128-byte rows, and the walk of a warpgroup over them.
#pragma once

#include <dsv3/cuda/attention/mla_attention/problem.cuh>
#include <dsv3/cuda/device/mbarrier.cuh>
#include <dsv3/cuda/device/mma.cuh>
#include <dsv3/cuda/device/tma.cuh>
#include <dsv3/cuda/device/wgmma.cuh>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// The one shape these kernels are made for: k = 128 + 64, v = 128. A block owns 128 rows, 64 for each of two
/// warpgroups that compute; a third one copies.
struct sm90_attention {
  static constexpr int nope = 128, rope = 64, qk = nope + rope, v_dim = 128;
  static constexpr int rows = 128, threads = 384;
  static constexpr int copy_registers = 24, compute_registers = 240;
};

/// Blocks in the order of their numbers: sections of heads whose keys and values fit the second-level cache
/// together, in a section tile after tile, of a tile all heads.
struct sm90_order {
  int tiles, heads, heads_of_section;

  static sm90_order of(const packed_sequences& queries, index_t longest, index_t heads) {
    constexpr index_t cached_bytes = index_t{24} << 20;
    const index_t head_bytes = longest * (sm90_attention::qk + sm90_attention::v_dim) * 2;
    const index_t fitting = std::clamp<index_t>(cached_bytes / std::max<index_t>(head_bytes, 1), 1, heads);
    return {static_cast<int>(most_tiles(queries, sm90_attention::rows)), static_cast<int>(heads),
            static_cast<int>(ceil_div(heads, ceil_div(heads, fitting)))};
  }
  unsigned blocks() const { return static_cast<unsigned>(tiles) * static_cast<unsigned>(heads); }

  struct place {
    int tile, head;
  };
  DSV3_HOST_DEVICE place at(unsigned block) const {
    const unsigned per_section = static_cast<unsigned>(tiles * heads_of_section);
    const unsigned section = block / per_section, within = block % per_section;
    const int first = static_cast<int>(section) * heads_of_section;
    const int width = heads - first < heads_of_section ? heads - first : heads_of_section;
    return {static_cast<int>(within) / width, first + static_cast<int>(within) % width};
  }
};

#if DSV3_SM90A

// ---- tiles in shared memory -------------------------------------------------------------------------------

/// The number of this thread's warpgroup, which the compiler sees to be the same for all lanes.
__device__ __forceinline__ int warpgroup() {
  return __shfl_sync(all_lanes, static_cast<int>(threadIdx.x / 128), 0);
}

/// Where a block works, kept in shared memory: what is needed at its end need not wait in registers.
struct sm90_tile {
  int head, token, first, length, tiles;  // token and length of the sequence; first row of the block in it
  index_t sequence;
};

/// A dynamic array of shared memory from its first multiple of 1024 on.
__device__ __forceinline__ unsigned char* swizzle_aligned(unsigned char* start) {
  return start + (0u - shared_address(start)) % 1024u;
}

/// sums = A · Bᵀ over `Panels` panels of 64 columns of both, both major::k.
template <int N, int Panels>
__device__ __forceinline__ void multiply_panels(float (&sums)[N / 2], std::uint32_t a, std::uint32_t a_panel,
                                                std::uint32_t b, std::uint32_t b_panel) {
#pragma unroll
  for (int panel = 0; panel < Panels; ++panel)
#pragma unroll
    for (int step = 0; step < 4; ++step)
      multiply_bf16<N>(sums, operand_after(operand_at(a + panel * a_panel), step * 32),
                       operand_after(operand_at(b + panel * b_panel), step * 32), panel + step > 0);
}

/// sums += weights · rows: 64 by K weights in registers, K rows of N columns in panels.
template <int N, int K>
__device__ __forceinline__ void add_weighted_panels(float (&sums)[N / 2],
                                                    const std::uint32_t (&weights)[K / 16][4],
                                                    std::uint32_t rows, std::uint32_t panel_bytes) {
#pragma unroll
  for (int k = 0; k < K / 16; ++k)
    multiply_bf16<N, major::mn>(sums, weights[k],
                                operand_after(operand_at<major::mn>(rows, panel_bytes), k * 2048), true);
}

/// Sums of 64 by N, rounded, as the A operand of the next product.
template <int N>
__device__ __forceinline__ void round_sums(std::uint32_t (&to)[N / 16][4], const float (&sums)[N / 2]) {
#pragma unroll
  for (int k = 0; k < N / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) to[k][i] = pack_bf16(sums[8 * k + 2 * i], sums[8 * k + 2 * i + 1]);
}

/// Rows [first, rows) of panels as zeros, by the 128 threads of a warpgroup, who may read them with wgmma
/// after the barrier. Several warpgroups may do it at once: they write the same.
template <int Panels>
__device__ __forceinline__ void clear_rows(std::uint32_t tile, std::uint32_t panel_bytes, int first, int rows,
                                           unsigned barrier) {
  for (int i = first * 8 + static_cast<int>(threadIdx.x % 128); i < rows * 8; i += 128)
#pragma unroll
    for (int panel = 0; panel < Panels; ++panel)
      asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(tile + panel * panel_bytes + i * 16),
                   "r"(0)
                   : "memory");
  publish_shared();
  named_sync(barrier, 128);
}

/// The first `Columns` of 16 rows of a warp's sums, times `factors` of the upper and lower row, to `to(row)`
/// where row < count; by way of 16 by 64 columns in panels at `room`, where the warp has rows 16 warp .. 16
/// warp + 15 of each panel.
template <int Columns, int Count, class To>
__device__ __forceinline__ void store_rows(const float (&sums)[Count], float upper, float lower,
                                           std::uint32_t room, std::uint32_t panel_bytes, int count, To to) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int j = 0; j < Columns / 16; ++j) {
    const std::uint32_t part[4] = {pack_bf16(sums[8 * j] * upper, sums[8 * j + 1] * upper),
                                   pack_bf16(sums[8 * j + 2] * lower, sums[8 * j + 3] * lower),
                                   pack_bf16(sums[8 * j + 4] * upper, sums[8 * j + 5] * upper),
                                   pack_bf16(sums[8 * j + 6] * lower, sums[8 * j + 7] * lower)};
    store_matrices(
        room + j / 4 * panel_bytes + swizzle_128(tile_row(lane), (j % 4 * 16 + tile_column(lane)) * 2), part);
  }
  __syncwarp();
  constexpr int chunks = Columns / 8;
#pragma unroll
  for (int i = lane; i < 16 * chunks; i += 32) {
    const int row = i / chunks, chunk = i % chunks;
    if (row >= count) continue;
    uint4 values;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(values.x), "=r"(values.y), "=r"(values.z), "=r"(values.w)
                 : "r"(room + chunk / 8 * panel_bytes + swizzle_128(row, chunk % 8 * 16)));
    *reinterpret_cast<uint4*>(to(row) + chunk * 8) = values;
  }
}

#endif

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
