// SPDX-License-Identifier: MIT
// Products over scaled tiles on the matrix units of compute capability 8.0 and later: codes are widened to
// bf16, which is exact, and the sums of every 128 of them are multiplied by their scales as floats.
#pragma once

#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/linear/group_tiles.cuh>
#include <dsv3/cuda/linear/grouped_tile.cuh>
#include <dsv3/cuda/linear/scaled/problem.cuh>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// The low two of four codes as bf16, bit for bit what they stand for. Shifted into a bf16's fields a code is
/// its value but for the difference of the exponents' biases, a power of two; numbers below the smallest
/// normal one come right as well. What is not finite is seen by a carry and repaired.
template <class Element>
__device__ __forceinline__ std::uint32_t widen_pair(std::uint32_t codes) {
  constexpr bool wide = std::is_same_v<Element, fp8_e5m2>;
  static_assert(wide || std::is_same_v<Element, fp8_e4m3>);
  constexpr int shift = wide ? 5 : 4;
  constexpr std::uint32_t power = wide ? 0x77807780 : 0x7B807B80;  // 2^(127 - 15), 2^(127 - 7)
  const std::uint32_t pair = __byte_perm(codes, 0, 0x4140);
  const std::uint32_t sign = (pair & 0x00800080) << 8, magnitude = (pair & 0x007F007F) << shift;
  std::uint32_t value;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(value) : "r"(magnitude | sign), "r"(power), "r"(0x80008000));
  // e5m2: an exponent of ones stays one.  e4m3: only 0x7F is no number.
  const std::uint32_t carry =
      wide ? (magnitude + 0x00800080) >> 12 & 0x00010001 : (magnitude + 0x00100010) >> 11 & 0x00010001;
  return value | carry * (wide ? 0x7F80 : 0x7FFF);
}

/// Sixteen codes of a row, zeros from `columns` on.
template <class Element>
__device__ __forceinline__ uint4 load_codes(const Element* from, index_t columns, bool packs) {
  uint4 codes = {0, 0, 0, 0};
  if (packs && columns >= 16) return *reinterpret_cast<const uint4*>(from);
  auto* bytes = reinterpret_cast<std::uint8_t*>(&codes);
#pragma unroll
  for (int i = 0; i < 16; ++i)
    if (i < columns) bytes[i] = from[i].bits;
  return codes;
}

/// 128 x 128 codes on their way through registers: a row in eight stretches of 16, 32 rows at a time.
struct code_tile {
  static constexpr int passes = 4;
  uint4 codes[passes];

  __device__ static int row(int pass) { return static_cast<int>(threadIdx.x) / 8 + pass * 32; }
  __device__ static int column() { return static_cast<int>(threadIdx.x) % 8 * 16; }

  template <class Element>
  __device__ void load(const Element* from, index_t stride, index_t rows, index_t columns, bool packs) {
#pragma unroll
    for (int i = 0; i < passes; ++i)
      codes[i] = row(i) < rows ? load_codes(from + row(i) * stride + column(), columns - column(), packs)
                               : uint4{0, 0, 0, 0};
  }

  /// As bf16, in two halves along the sum, laid out as load_fragment reads them.
  template <class Element, bool Turned>
  __device__ void widen(std::byte* shared) const {
#pragma unroll
    for (int i = 0; i < passes; ++i) {
      const int half = Turned ? row(i) / 64 : column() / 64, across = column() % 64 * 2;
      const int line = Turned ? column() / 64 * 64 + row(i) % 64 : row(i);
      std::byte* to = shared + half * mma_operand_bytes;
      const std::uint32_t words[] = {codes[i].x, codes[i].y, codes[i].z, codes[i].w};
#pragma unroll
      for (int part = 0; part < 2; ++part)
        *reinterpret_cast<uint4*>(to + swizzle_128(static_cast<std::uint32_t>(line),
                                                   static_cast<std::uint32_t>(across + part * 16))) = {
            widen_pair<Element>(words[part * 2]), widen_pair<Element>(words[part * 2] >> 16),
            widen_pair<Element>(words[part * 2 + 1]), widen_pair<Element>(words[part * 2 + 1] >> 16)};
    }
  }
};

/// Whether rows of codes can be read sixteen at a time.
template <class Element>
__device__ bool codes_in_packs(const Element* data, index_t stride) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride % 16 == 0;
}

inline constexpr int scaled_shared_bytes = 4 * mma_operand_bytes;

/// A block makes 128 x 128 of c; the next codes are on their way while the present ones are multiplied.
template <class A, class C, grouped_by By, sum_runs Runs>
__global__ __launch_bounds__(mma_threads, 1) void scaled_product_kernel(const scaled_problem<A, C> all) {
  std::byte* shared = dynamic_shared();
  constexpr bool turned = Runs == sum_runs::across;
  index_t group = blockIdx.z, row = static_cast<index_t>(blockIdx.x) * mma_tile;
  if (By == grouped_by::rows && !all.groups.all()) {
    const group_rows rows{all.groups.offsets.data(), all.groups.counts.data(),
                          static_cast<int>(all.groups.groups())};
    const group_tile tile = find_tile<mma_tile>(rows, static_cast<int>(blockIdx.x));
    if (tile.group < 0) return;
    group = tile.group, row = tile.row;
  }
  const auto p = all.template group<By>(group);
  if (By == grouped_by::terms && p.k == 0 && p.into == store::add) return;
  const index_t column = static_cast<index_t>(blockIdx.y) * mma_tile;
  const A* a = p.a + row * p.a_stride;
  const fp8_e4m3* b = p.b + (turned ? column : column * p.b_stride);
  const bool a_packs = codes_in_packs(a, p.a_stride), b_packs = codes_in_packs(b, p.b_stride);
  const auto m = static_cast<int>(min(p.m - row, index_t{mma_tile}));
  const auto n = static_cast<int>(min(p.n - column, index_t{mma_tile}));

  code_tile left, right;
  const auto load = [&](index_t k) {
    left.load(a + k, p.a_stride, m, p.k - k, a_packs);
    if constexpr (turned)
      right.load(b + k * p.b_stride, p.b_stride, p.k - k, n, b_packs);
    else
      right.load(b + k, p.b_stride, n, p.k - k, b_packs);
  };
  mma_sums totals = {};
  if (p.k > 0) load(0);
  const std::uint32_t tile = shared_address(shared);
  const unsigned warp = threadIdx.x / 32, warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
  for (index_t k = 0; k < p.k; k += 128) {
    __syncthreads();  // everybody has read the codes before these
    left.template widen<A, false>(shared);
    right.template widen<fp8_e4m3, turned>(shared + 2 * mma_operand_bytes);
    __syncthreads();
    if (k + 128 < p.k) load(k + 128);

    mma_sums sums = {};
#pragma unroll 1
    for (std::uint32_t half = tile; half < tile + 2 * mma_operand_bytes; half += mma_operand_bytes) {
#pragma unroll
      for (unsigned l = 0; l < mma_depth; l += 16) {
        std::uint32_t columns[2][4];
#pragma unroll
        for (int j = 0; j < 2; ++j)
          load_fragment<turned>(columns[j], half + 2 * mma_operand_bytes, warp_column + j * 16, l);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          std::uint32_t rows[4];
          load_fragment<false>(rows, half, warp_row + i * 16, l);
#pragma unroll
          for (int j = 0; j < 4; ++j)
            mma(sums.at[i][j], rows, columns[j / 2][j % 2], columns[j / 2][j % 2 + 2]);
        }
      }
    }

    const index_t at = k / 128;
    float column_scales[4][2];
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int c = mma_sums::column(j) + e;
        column_scales[j][e] = c < n ? p.b_scales.of(column + c)[at * p.b_scales.tile_stride] : 0;
      }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = mma_sums::row(i, half * 2);
        const float row_scale = r < m ? p.a_scales.of(row + r)[at * p.a_scales.tile_stride] : 0;
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            totals.at[i][j][half * 2 + e] += sums.at[i][j][half * 2 + e] * (row_scale * column_scales[j][e]);
      }
  }
  C* c = p.c + row * p.c_stride + column;
  if (p.into == store::add)
    store_sums<true>(totals, c, p.c_stride, m, n);
  else
    store_sums<false>(totals, c, p.c_stride, m, n);
}

// ---- launch -----------------------------------------------------------------------------------------------

template <grouped_by By, sum_runs Runs, class A, class C>
void launch_scaled_product(const char* name, cudaStream_t stream, const scaled_problem<A, C>& p) {
  const launch_shape shape{
      .grid = dim3(static_cast<unsigned>(most_row_tiles<By>(p, mma_tile)),
                   static_cast<unsigned>(ceil_div(p.n, mma_tile)),
                   By == grouped_by::terms ? static_cast<unsigned>(p.groups.groups()) : 1),
      .block = mma_threads,
      .shared_bytes = scaled_shared_bytes};
  launch(name, stream, shape, scaled_product_kernel<A, C, By, Runs>, p);
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
