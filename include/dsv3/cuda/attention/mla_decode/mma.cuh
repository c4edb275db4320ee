// SPDX-License-Identifier: MIT
// Absorbed attention on the matrix units of compute capability 8.0 and later: bf16 rows, or rows in 8 bits
// widened to bf16 on their way into shared memory.
#pragma once

#include <dsv3/cuda/attention/mla_decode/rows.cuh>
#include <dsv3/cuda/device/mma.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/quant/numbers.cuh>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- selection --------------------------------------------------------------------------------------------

/// A row of queries or keys in shared memory, in elements: eight rows of 16 bytes each meet all banks.
DSV3_HOST_DEVICE constexpr int decode_stride(int columns) { return columns + 8; }
inline std::size_t decode_operand_bytes(int columns) {
  return sizeof(bf16) *
         static_cast<std::size_t>((decode_tiles.rows + decode_tiles.keys) * decode_stride(columns));
}

/// Columns in whole tiles of the matrix units, few enough for the sums and for the shared memory of any GPU;
/// rows that begin at multiples of 16 bytes.
template <class Row, class Args>
bool takes_matrix_units(const Args& args) {
  const auto aligned = [](const auto& rows) {
    constexpr int width = 16 / sizeof(*rows.data());
    return takes_packs<width>(rows.data(), rows.stride(0)) && rows.stride(1) % width == 0;
  };
  const index_t rank = args.q_latent.extent(2), rope = args.q_rope.extent(2);
  return rank % 16 == 0 && rope % 8 == 0 && (rank + rope) % 32 == 0 && rank <= 512 && rank + rope <= 640 &&
         aligned(args.q_latent) && aligned(args.q_rope) && aligned(args.cache.pages);
}

// ---- kernels ----------------------------------------------------------------------------------------------

/// A row of the cache into shared memory as bf16, by the lanes of a warp; zeros where there is none. Finished
/// copies in the background are waited for by the caller.
__device__ __forceinline__ void stage_row(cache_row::plain, const bf16* row, int rank, int rope, bf16* to) {
  const bool there = row != nullptr;
  for (int e = 8 * (threadIdx.x % 32); e < rank + rope; e += 256) {
    if (there)
      copy_async(shared_address(to + e), row + e);
    else
      *reinterpret_cast<uint4*>(to + e) = uint4{0, 0, 0, 0};
  }
}
__device__ __forceinline__ void stage_row(cache_row::fp8, const std::uint8_t* row, int rank, int rope,
                                          bf16* to) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int e = 16 * lane; e < rank; e += 512) {
    pack<std::uint32_t, 4> codes{}, values[2] = {};
    if (row != nullptr) {
      codes = load_pack<4>(reinterpret_cast<const std::uint32_t*>(row + e));
      const float scale =
          *reinterpret_cast<const float*>(row + cache_row::fp8::scales_at(rank) + e / 128 * 4);
#pragma unroll
      for (int i = 0; i < 16; i += 2) {
        float value[2];
        values_of_two<fp8_e4m3>(codes[i / 4] >> 8 * (i % 4), value[0], value[1]);
        values[i / 8][i % 8 / 2] = pack_bf16(value[0] * scale, value[1] * scale);
      }
    }
    auto* const at = reinterpret_cast<std::uint32_t*>(to + e);
    store_pack(at, values[0]), store_pack(at + 4, values[1]);
  }
#pragma unroll 1
  for (int e = 2 * lane; e < rope; e += 64) {
    const index_t at = cache_row::fp8::rope_at(rank) + 2 * e;
    *reinterpret_cast<std::uint32_t*>(to + rank + e) =
        row != nullptr ? *reinterpret_cast<const std::uint32_t*>(row + at) : 0;
  }
}

/// As decode_rows_kernel, and in the same order of splits. Scores: a warp has half of the rows and a quarter
/// of the keys. Sums: a warp has all rows and 64 columns. Weights are rounded to bf16; a key that some rows
/// of a tile see and others do not is multiplied by their zeros, so there it must be finite.
template <class P, class Row>
__global__ void __launch_bounds__(decode_tiles.threads, 2)
    decode_matrices_kernel(typename op::mla_decode<P, Row>::forward_args args, decode_plan plan, float* sums,
                           decode_softmax<float>* softmax) {
  using element = typename op::mla_decode<P, Row>::element;
  constexpr decode_config c = decode_tiles;
  constexpr int weight_stride = c.keys + 8;
  extern __shared__ uint4 decode_operands[];
  __shared__ decode_room<float> room;
  alignas(16) __shared__ bf16 weights[c.rows * weight_stride];
  __shared__ const element* key[c.keys];

  const index_t index = blockIdx.x / plan.results_of_block();
  const decode_rows rows = decode_rows_of(args, plan.row_blocks, index, c.rows);
  const int most_seen = static_cast<int>(rows.most_seen());
  const int first_split = static_cast<int>(blockIdx.x % plan.results_of_block());
  if (decode_split_begin(first_split) >= most_seen) return;

  room.begin(rows);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32,
            count = static_cast<int>(rows.count());
  const int rank = static_cast<int>(args.q_latent.extent(2));
  const int columns = rank + static_cast<int>(args.q_rope.extent(2)), stride = decode_stride(columns);
  bf16* const q = reinterpret_cast<bf16*>(decode_operands);
  bf16* const k = q + c.rows * stride;
  for (int r = warp; r < c.rows; r += c.threads / 32) {
    const bool there = r < count;
    const index_t t = rows.token + (there ? rows.query(r) : 0), head = there ? rows.head(r) : 0;
    for (int e = 8 * lane; e < columns; e += 256)
      copy_async(shared_address(q + r * stride + e),
                 e < rank ? &args.q_latent(t, head, e) : &args.q_rope(t, head, e - rank), there);
  }
  commit_copies();
  __syncthreads();

  const int row_half = warp % 2 * 16, keys_of_warp = warp / 2 * 8, column = warp * 64;
  float held[2][8][4];
  for (int split = first_split; decode_split_begin(split) < room.most_seen; ++split) {
    const int end = static_cast<int>(min(decode_split_begin(split + 1), index_t{room.most_seen}));
#pragma unroll
    for (int i = 0; i < 64; ++i) held[i / 32][i / 4 % 8][i % 4] = 0;
    room.open();

    for (int tile = static_cast<int>(decode_split_begin(split)); tile < end; tile += c.keys) {
      if (thread < c.keys)
        key[thread] = tile + thread < end ? row_of(args.cache, room.sequence, tile + thread) : nullptr;
      __syncthreads();
#pragma unroll
      for (int j = warp; j < c.keys; j += c.threads / 32)
        stage_row(Row{}, key[j], rank, columns - rank, k + j * stride);
      commit_copies();
      wait_copies<0>();
      __syncthreads();

      // Two sums at a time, as each product waits for the one before it.
      float score[2][4] = {};
      const std::uint32_t a_at = shared_address(q + (row_half + tile_row(lane)) * stride + tile_column(lane));
      const std::uint32_t b_at = shared_address(k + (keys_of_warp + lane % 8) * stride + lane / 8 * 8);
#pragma unroll 2
      for (int e = 0; e < columns; e += 32) {
        const auto bytes = static_cast<std::uint32_t>(e * 2);
        std::uint32_t a[2][4], b[4];
        load_matrices(b, b_at + bytes);
        load_matrices(a[0], a_at + bytes), load_matrices(a[1], a_at + bytes + 32);
        mma(score[0], a[0], b[0], b[1]);
        mma(score[1], a[1], b[2], b[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
        room.scores[row_half + fragment_row(lane) + 8 * (i / 2)]
                   [keys_of_warp + fragment_column(lane) + i % 2] =
            static_cast<float>(args.scale) * (score[0][i] + score[1][i]);
      __syncthreads();
      room.weigh(tile, [&](int r, int j, float weight) { weights[r * weight_stride + j] = bf16(weight); });
      __syncthreads();

#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const float upper = room.factor[16 * m + fragment_row(lane)];
        const float lower = room.factor[16 * m + fragment_row(lane) + 8];
#pragma unroll
        for (int i = 0; i < 32; ++i) held[m][i / 4][i % 4] *= i % 4 < 2 ? upper : lower;
      }
#pragma unroll
      for (int j = 0; j < c.keys; j += 16) {
        std::uint32_t a[2][4];
#pragma unroll
        for (int m = 0; m < 2; ++m)
          load_matrices(a[m], shared_address(weights + (16 * m + tile_row(lane)) * weight_stride + j +
                                             tile_column(lane)));
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
          if (column + 8 * n >= rank) break;
          std::uint32_t b[4];
          load_transposed(
              b, shared_address(k + (j + tile_row(lane)) * stride + column + 8 * n + tile_column(lane)));
#pragma unroll
          for (int m = 0; m < 2; ++m)
            mma(held[m][n], a[m], b[0], b[1]), mma(held[m][n + 1], a[m], b[2], b[3]);
        }
      }
      __syncthreads();
    }

    // The split's result, or what it makes of those before it. Each thread meets its own sums again.
    const bool joins = split > first_split;
    room.close(joins);
    float* const to = sums + static_cast<index_t>(blockIdx.x) * c.rows * rank;
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      const int r = 16 * (i / 32) + fragment_row(lane) + 8 * (i % 4 / 2);
      const int at = column + 8 * (i / 4 % 8) + fragment_column(lane) + i % 2;
      if (r < room.count && at < rank)
        room.leave(to[r * rank + at], r, held[i / 32][i / 4 % 8][i % 4], joins);
    }
    if (plan.shared) break;
  }
  if (thread < room.count) softmax[static_cast<index_t>(blockIdx.x) * c.rows + thread] = room.total[thread];
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
