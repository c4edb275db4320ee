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

/// 128 rows of a sequence; numbers of tokens.
struct sm90_tile {
  int sequence;           // -1: none
  int token, length;      // its first query, and how many it has
  int key_token, before;  // its first key, and how many of them all queries see
  int first;              // the first of the rows, from `token` on

  /// The rows that are as far from the sequence's end as these are from its beginning.
  DSV3_HOST_DEVICE int mirrored() const {
    return (length - 1) / sm90_attention::rows * sm90_attention::rows - first;
  }
};

/// All tiles of all sequences, found once for all heads, and how many tiles of heads were taken by blocks
/// that were done with their first. Blocks stay as long as there are tiles: who is done early takes more.
struct sm90_plan {
  view<sm90_tile, 1> tiles;
  view<unsigned, 1> taken;  // [1]

  static sm90_plan place(scratch_arena& arena, const packed_sequences& queries) {
    return {arena.tensor<sm90_tile>(most_tiles(queries, sm90_attention::rows)), arena.tensor<unsigned>(1)};
  }
};

/// Tiles of heads in the order of their numbers: sections of heads whose keys and values fit the second-level
/// cache together, in a section tile after tile, of a tile all heads.
struct sm90_order {
  int tiles, heads, heads_of_section;

  static sm90_order of(const sm90_plan& plan, index_t longest, index_t heads) {
    constexpr index_t cached_bytes = index_t{24} << 20;
    const index_t head_bytes = longest * (sm90_attention::qk + sm90_attention::v_dim) * 2;
    const index_t fitting = std::clamp<index_t>(cached_bytes / std::max<index_t>(head_bytes, 1), 1, heads);
    return {static_cast<int>(plan.tiles.extent(0)), static_cast<int>(heads),
            static_cast<int>(ceil_div(heads, ceil_div(heads, fitting)))};
  }
  DSV3_HOST_DEVICE unsigned count() const {
    return static_cast<unsigned>(tiles) * static_cast<unsigned>(heads);
  }

  struct place {
    int tile, head;
  };
  DSV3_HOST_DEVICE place at(unsigned index) const {
    const unsigned per_section = static_cast<unsigned>(tiles * heads_of_section);
    const unsigned section = index / per_section, within = index % per_section;
    const int first = static_cast<int>(section) * heads_of_section;
    const int width = heads - first < heads_of_section ? heads - first : heads_of_section;
    return {static_cast<int>(within) / width, first + static_cast<int>(within) % width};
  }
};

// ---- the plan ---------------------------------------------------------------------------------------------

/// Makes the plan, a warp for a tile; the first also looks whether the sequences fulfil their contract.
template <class Sequences>
__global__ void __launch_bounds__(256)
    sm90_plan_kernel(Sequences queries, Sequences keys, sequence_misuse wrong, misuse too_few,
                     sm90_plan plan) {
  const index_t warp = static_cast<index_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (warp == 0) keys_hold(queries, keys, wrong, too_few);
  if (warp == 0 && threadIdx.x == 0) plan.taken(0) = 0;
  for (index_t i = warp; i < plan.tiles.extent(0); i += static_cast<index_t>(gridDim.x) * 8) {
    const sequence_tile at = find_tile(queries, sm90_attention::rows, i);
    sm90_tile tile{.sequence = -1};
    if (at.sequence >= 0) {
      const index_range tokens = tokens_of(queries, at.sequence), key_tokens = tokens_of(keys, at.sequence);
      tile = sm90_tile{.sequence = static_cast<int>(at.sequence),
                       .token = static_cast<int>(tokens.begin),
                       .length = static_cast<int>(tokens.count()),
                       .key_token = static_cast<int>(key_tokens.begin),
                       .before = static_cast<int>(key_tokens.count() - tokens.count()),
                       .first = static_cast<int>(at.tile) * sm90_attention::rows};
    }
    if (threadIdx.x % 32 == 0) plan.tiles(i) = tile;
  }
}

template <class Ctx>
void make_sm90_plan(Ctx& ctx, const char* name, const packed_sequences& queries, const packed_sequences& keys,
                    const sm90_plan& plan) {
  const index_t blocks = std::clamp<index_t>(ceil_div(plan.tiles.extent(0), 8), 1, 128);
  launch(name, ctx.stream, {.grid = static_cast<unsigned>(blocks), .block = 256},
         sm90_plan_kernel<packed_sequences>, queries, keys, sequence_misuse_of(ctx, name),
         too_few_keys(ctx, name), plan);
}

#if DSV3_SM90A

// ---- tiles in shared memory -------------------------------------------------------------------------------

/// The number of this thread's warpgroup, which the compiler sees to be the same for all lanes.
__device__ __forceinline__ int warpgroup() {
  return __shfl_sync(all_lanes, static_cast<int>(threadIdx.x / 128), 0);
}

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

/// The first `Columns` of 16 rows of a warp's sums, times `upper` and `lower`, to `to(row)` where row <
/// count. The lanes of a quad, who share their rows, change pairs of columns until each has 16 bytes of
/// neighbours.
template <int Columns, int Count, class To>
__device__ __forceinline__ void store_rows(const float (&sums)[Count], float upper, float lower, int count,
                                           To to) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const bool odd = lane % 2 == 1, high = lane / 2 % 2 == 1;
  // Of two lanes the first keeps a and gets the other's a as b, the second keeps b and gets the other's b as
  // a.
  const auto change = [](std::uint32_t& a, std::uint32_t& b, bool second, int distance) {
    const std::uint32_t got = __shfl_xor_sync(all_lanes, second ? a : b, distance);
    (second ? a : b) = got;
  };
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = fragment_row(lane) + 8 * h;
    const float factor = h == 0 ? upper : lower;
#pragma unroll
    for (int j = 0; j < Columns / 32; ++j) {
      std::uint32_t part[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        part[i] = pack_bf16(sums[16 * j + 4 * i + 2 * h] * factor, sums[16 * j + 4 * i + 2 * h + 1] * factor);
      change(part[0], part[1], odd, 1), change(part[2], part[3], odd, 1);
      change(part[0], part[2], high, 2), change(part[1], part[3], high, 2);
      if (row < count)
        *reinterpret_cast<uint4*>(to(row) + 32 * j + lane % 4 * 8) = {part[0], part[1], part[2], part[3]};
    }
  }
}

#endif

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
