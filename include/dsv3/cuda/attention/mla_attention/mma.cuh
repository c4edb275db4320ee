// SPDX-License-Identifier: MIT
// Latent attention in bf16 on the matrix units of compute capability 8.0 and later. Scores live in registers
// only; backward computes them twice, once for the keys' gradients and once for the queries', so that every
// sum has one owner and one order.
//
// A score that is masked becomes a weight of zero and is multiplied: inside a tile on the diagonal a NaN of a
// later token of the same sequence is seen. Other sequences never are: their rows are loaded as zeros.
#pragma once

#include <dsv3/cuda/attention/mla_attention/problem.cuh>
#include <dsv3/cuda/device/mma.cuh>

#include <cmath>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// Kernels are made for the widest rows they take, Qk of q and k and V of v; narrower ones are filled up with
/// zeros. A row in shared memory has 16 bytes more than it needs, so that eight rows of a column meet all
/// banks.
constexpr DSV3_HOST_DEVICE int mma_padded(int width) { return width + 8; }
constexpr std::size_t mma_row_bytes(int qk, int v_dim) {
  return sizeof(bf16) * static_cast<std::size_t>(mma_padded(qk) + mma_padded(v_dim));
}

/// A block of four warps owns 64 rows. Backward walks over the others 32 at a time, two tiles under way.
inline constexpr int mma_rows = 64, mma_step = 32;

// ---- kernels ----------------------------------------------------------------------------------------------

/// Rows of `Width` bf16 to shared memory in the background: `at(row)` where row < count, cut at `columns` and
/// filled up with zeros; `anywhere` is any address that may be read.
template <int Rows, int Width, class At>
__device__ __forceinline__ void copy_rows(bf16* to, int count, int columns, const bf16* anywhere, At at) {
  constexpr int chunks = Width / 8;
#pragma unroll 2  // more would keep more addresses in registers, which the sums need
  for (int i = static_cast<int>(threadIdx.x); i < Rows * chunks; i += 128) {
    const int row = i / chunks, column = i % chunks * 8;
    const bool wanted = row < count && column < columns;
    copy_async(shared_address(to + row * mma_padded(Width) + column), wanted ? at(row, column) : anywhere,
               wanted);
  }
}

/// sums += left · rightᵀ: 16 rows of `left` by N rows of `right`, both `Width` wide in shared memory.
template <int Width, int N>
__device__ __forceinline__ void multiply_tiles(float (&sums)[N / 8][4], std::uint32_t left,
                                               std::uint32_t right) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::uint32_t own =
      static_cast<std::uint32_t>(tile_row(lane) * mma_padded(Width) + tile_column(lane)) * 2;
#pragma unroll
  for (int k = 0; k < Width / 16; ++k) {
    std::uint32_t a[4];
    load_matrices(a, left + own + k * 32);
#pragma unroll
    for (int n = 0; n < N / 16; ++n) {
      std::uint32_t b[4];
      load_matrices(b, right + own + n * 32 * mma_padded(Width) + k * 32);
      mma(sums[2 * n], a, b[0], b[2]);
      mma(sums[2 * n + 1], a, b[1], b[3]);
    }
  }
}

/// sums += weights · rows: 16 by K weights in registers, K rows of `Width` in shared memory.
template <int K, int Width>
__device__ __forceinline__ void add_weighted_tile(float (&sums)[Width / 8][4],
                                                  const std::uint32_t (&weights)[K / 16][4],
                                                  std::uint32_t rows) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::uint32_t own =
      static_cast<std::uint32_t>(tile_row(lane) * mma_padded(Width) + tile_column(lane)) * 2;
#pragma unroll
  for (int k = 0; k < K / 16; ++k)
#pragma unroll
    for (int n = 0; n < Width / 16; ++n) {
      std::uint32_t b[4];
      load_transposed(b, rows + own + k * 32 * mma_padded(Width) + n * 32);
      mma(sums[2 * n], weights[k], b[0], b[1]);
      mma(sums[2 * n + 1], weights[k], b[2], b[3]);
    }
}

/// Sums of 16 by N as the left operand of the next product.
template <int N>
__device__ __forceinline__ void round_sums(std::uint32_t (&to)[N / 16][4], const float (&sums)[N / 8][4]) {
#pragma unroll
  for (int k = 0; k < N / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      to[k][i] = pack_bf16(sums[2 * k + i / 2][i % 2 * 2], sums[2 * k + i / 2][i % 2 * 2 + 1]);
}

/// Where the rows of a key lie: k_nope and v in kv, k_rope beside.
struct mma_keys {
  const bf16 *kv, *k_rope;  // of a head, at the first token
  index_t kv_stride, rope_stride;
  int nope;

  __device__ mma_keys(const attention_inputs<bf16, float>& in, index_t first, index_t head)
      : kv(&in.kv(first, head, 0)),
        k_rope(in.k_rope.data() + first * in.k_rope.stride(0)),
        kv_stride(in.kv.stride(0)),
        rope_stride(in.k_rope.stride(0)),
        nope(static_cast<int>(in.nope())) {}

  __device__ const bf16* k(index_t row, int column) const {
    return column < nope ? kv + row * kv_stride + column : k_rope + row * rope_stride + (column - nope);
  }
  __device__ const bf16* v(index_t row, int column) const { return kv + row * kv_stride + nope + column; }
};

/// Rows of a tensor of one head.
struct mma_rows_of_head {
  const bf16* data;  // at the first token
  index_t stride;

  __device__ mma_rows_of_head(const view<const bf16, 3>& from, index_t first, index_t head)
      : data(&from(first, head, 0)), stride(from.stride(0)) {}
  __device__ const bf16* operator()(index_t row, int column) const { return data + row * stride + column; }
};

/// o and lse of 64 queries of a head.
template <int Qk, int V>
__global__ void __launch_bounds__(128, 1)
    mma_forward_kernel(attention_inputs<bf16, float> in, view<bf16, 3> o, view<float, 2> lse) {
  extern __shared__ __align__(16) bf16 room[];
  bf16 *const q_tile = room, *const k_tile = q_tile + 64 * mma_padded(Qk),
              *const v_tile = k_tile + 64 * mma_padded(Qk);
  const sequence_tile at = find_tile(in.queries, 64, blockIdx.x);
  if (at.sequence < 0) return;
  const index_t head = blockIdx.y;
  const index_range tokens = tokens_of(in.queries, at.sequence), keys = tokens_of(in.keys, at.sequence);
  const index_t first = (at.tiles - 1 - at.tile) * 64;  // late queries see most keys and go first
  const index_t before = keys.count() - tokens.count(), end = min(first + 64, tokens.count());
  const index_t seen = before + end;  // keys that any of these queries sees
  const int qk = static_cast<int>(in.qk()), v_dim = static_cast<int>(in.v_dim());
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  if (seen <= 0) return;  // reported: fewer keys than queries

  const bf16* anywhere = in.q.data();
  const mma_rows_of_head queries(in.q, tokens.begin + first, head);
  const mma_keys key_rows(in, keys.begin, head);
  const auto load_k = [&](index_t tile) {
    copy_rows<64, Qk>(k_tile, static_cast<int>(seen - tile), qk, anywhere,
                      [&](int r, int c) { return key_rows.k(tile + r, c); });
  };
  const auto load_v = [&](index_t tile) {
    copy_rows<64, V>(v_tile, static_cast<int>(seen - tile), v_dim, anywhere,
                     [&](int r, int c) { return key_rows.v(tile + r, c); });
  };
  copy_rows<64, Qk>(q_tile, static_cast<int>(end - first), qk, anywhere, queries);
  load_k(0), commit_copies();
  load_v(0), commit_copies();

  const float scale = in.scale * log2_of_e;  // exponentials to base 2
  const index_t row = first + warp * 16 + fragment_row(lane);
  float out[V / 8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  for (index_t tile = 0; tile < seen; tile += 64) {
    wait_copies<1>();
    __syncthreads();
    float scores[8][4] = {};
    multiply_tiles<Qk, 64>(scores, shared_address(q_tile + warp * 16 * mma_padded(Qk)),
                           shared_address(k_tile));
    __syncthreads();
    if (tile + 64 < seen) load_k(tile + 64);
    commit_copies();

    const bool edge = tile + 64 > before + first + 1;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // Of this tile the columns below `visible` are seen by the row.
      const int visible =
          edge ? static_cast<int>(max(index_t{0}, min(before + row + 8 * i + 1 - tile, index_t{64}))) : 64;
      float top = highest[i];
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& score = scores[n][2 * i + c];
          score = n * 8 + fragment_column(lane) + c < visible ? score * scale : -INFINITY;
          top = fmaxf(top, score);
        }
      top = reduce_lanes<4>(top, [](float a, float b) { return fmaxf(a, b); });
      const float shift = top == -INFINITY ? 0.f : top, stays = exp2_approximately(highest[i] - shift);
      highest[i] = top, sum[i] *= stays;
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          sum[i] += scores[n][2 * i + c] = exp2_approximately(scores[n][2 * i + c] - shift);
#pragma unroll
      for (int n = 0; n < V / 8; ++n) out[n][2 * i] *= stays, out[n][2 * i + 1] *= stays;
    }
    std::uint32_t weights[4][4];
    round_sums<64>(weights, scores);
    wait_copies<1>();
    __syncthreads();
    add_weighted_tile<64, V>(out, weights, shared_address(v_tile));
    __syncthreads();
    if (tile + 64 < seen) load_v(tile + 64);
    commit_copies();
  }
  wait_copies<0>();

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const index_t r = row + 8 * i, t = tokens.begin + r;
    sum[i] = sum_lanes<4>(sum[i]);
    if (r >= end) continue;
    const float share = 1 / sum[i];
    if (!lse.empty() && lane % 4 == 0) lse(head, t) = highest[i] * ln_of_2 + logf(sum[i]);
#pragma unroll
    for (int n = 0; n < V / 8; ++n)
      if (const int c = n * 8 + fragment_column(lane); c < v_dim)
        *reinterpret_cast<std::uint32_t*>(&o(t, head, c)) =
            pack_bf16(out[n][2 * i] * share, out[n][2 * i + 1] * share);
  }
}

/// dq of 64 queries of a head.
template <int Qk, int V>
__global__ void __launch_bounds__(128, 1)
    mma_queries_kernel(attention_inputs<bf16, float> in, attention_slopes<bf16, float> slopes,
                       attention_gradients<bf16, float> to) {
  extern __shared__ __align__(16) bf16 room[];
  bf16 *const q_tile = room, *const d_o_tile = q_tile + 64 * mma_padded(Qk),
              *const k_tiles = d_o_tile + 64 * mma_padded(V),
              *const v_tiles = k_tiles + 2 * 32 * mma_padded(Qk);
  const sequence_tile at = find_tile(in.queries, 64, blockIdx.x);
  if (at.sequence < 0) return;
  const index_t head = blockIdx.y;
  const index_range tokens = tokens_of(in.queries, at.sequence);
  const int first = static_cast<int>(at.tiles - 1 - at.tile) * 64;
  const int end = min(first + 64, static_cast<int>(tokens.count()));
  const int qk = static_cast<int>(in.qk()), v_dim = static_cast<int>(in.v_dim());
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);

  const bf16* anywhere = in.q.data();
  const mma_rows_of_head queries(in.q, tokens.begin + first, head),
      slope_rows(slopes.d_o, tokens.begin + first, head);
  const mma_keys key_rows(in, tokens.begin, head);
  const auto load = [&](int tile) {
    const int stage = tile / 32 % 2;
    copy_rows<32, Qk>(k_tiles + stage * 32 * mma_padded(Qk), end - tile, qk, anywhere,
                      [&](int r, int c) { return key_rows.k(tile + r, c); });
    copy_rows<32, V>(v_tiles + stage * 32 * mma_padded(V), end - tile, v_dim, anywhere,
                     [&](int r, int c) { return key_rows.v(tile + r, c); });
    commit_copies();
  };
  copy_rows<64, Qk>(q_tile, end - first, qk, anywhere, queries);
  copy_rows<64, V>(d_o_tile, end - first, v_dim, anywhere, slope_rows);
  load(0);

  const float scale = in.scale * log2_of_e;
  const int row = first + warp * 16 + fragment_row(lane);
  float lse[2] = {}, projection[2] = {}, dq[Qk / 8][4] = {};
  for (int i = 0; i < 2; ++i)
    if (row + 8 * i < end) {
      lse[i] = slopes.lse(head, tokens.begin + row + 8 * i) * log2_of_e;
      projection[i] = slopes.projection(head, tokens.begin + row + 8 * i);
    }
  for (int tile = 0; tile < end; tile += 32) {
    if (tile + 32 < end) {
      load(tile + 32);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    const int stage = tile / 32 % 2;
    const std::uint32_t k_tile = shared_address(k_tiles + stage * 32 * mma_padded(Qk));
    float scores[4][4] = {}, slope[4][4] = {};
    multiply_tiles<Qk, 32>(scores, shared_address(q_tile + warp * 16 * mma_padded(Qk)), k_tile);
    multiply_tiles<V, 32>(slope, shared_address(d_o_tile + warp * 16 * mma_padded(V)),
                          shared_address(v_tiles + stage * 32 * mma_padded(V)));
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = tile + n * 8 + fragment_column(lane) + i % 2, query = row + i / 2 * 8;
        const float p = exp2_approximately(scores[n][i] * scale - lse[i / 2]);
        slope[n][i] = key <= query && query < end ? p * (slope[n][i] - projection[i / 2]) : 0.f;
      }
    std::uint32_t weights[2][4];
    round_sums<32>(weights, slope);
    add_weighted_tile<32, Qk>(dq, weights, k_tile);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (row + 8 * i >= end) continue;
#pragma unroll
    for (int n = 0; n < Qk / 8; ++n)
      if (const int c = n * 8 + fragment_column(lane); c < qk)
        *reinterpret_cast<std::uint32_t*>(&to.dq(tokens.begin + row + 8 * i, head, c)) =
            pack_bf16(dq[n][2 * i] * in.scale, dq[n][2 * i + 1] * in.scale);
  }
}

/// dk and dv of 64 keys of a head, from Sᵀ and the transpose of its gradient.
template <int Qk, int V>
__global__ void __launch_bounds__(128, 1)
    mma_keys_kernel(attention_inputs<bf16, float> in, attention_slopes<bf16, float> slopes,
                    attention_gradients<bf16, float> to) {
  extern __shared__ __align__(16) bf16 room[];
  bf16 *const k_tile = room, *const v_tile = k_tile + 64 * mma_padded(Qk),
              *const q_tiles = v_tile + 64 * mma_padded(V),
              *const d_o_tiles = q_tiles + 2 * 32 * mma_padded(Qk);
  __shared__ float row_values[2][2][32];  // of each tile lse to base 2, and D
  const sequence_tile at = find_tile(in.queries, 64, blockIdx.x);
  if (at.sequence < 0) return;
  const index_t head = blockIdx.y;
  const index_range tokens = tokens_of(in.queries, at.sequence);
  const int first = static_cast<int>(at.tile) * 64;  // early keys are seen most and go first
  const int length = static_cast<int>(tokens.count()), end = min(first + 64, length);
  const int qk = static_cast<int>(in.qk()), v_dim = static_cast<int>(in.v_dim());
  const int nope = static_cast<int>(in.nope());
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);

  const bf16* anywhere = in.q.data();
  const mma_rows_of_head queries(in.q, tokens.begin, head), slope_rows(slopes.d_o, tokens.begin, head);
  const mma_keys key_rows(in, tokens.begin + first, head);
  const auto load = [&](int tile) {
    const int stage = tile / 32 % 2;
    copy_rows<32, Qk>(q_tiles + stage * 32 * mma_padded(Qk), length - tile, qk, anywhere,
                      [&](int r, int c) { return queries(tile + r, c); });
    copy_rows<32, V>(d_o_tiles + stage * 32 * mma_padded(V), length - tile, v_dim, anywhere,
                     [&](int r, int c) { return slope_rows(tile + r, c); });
    commit_copies();
    if (threadIdx.x < 64) {
      const bool inside = tile + lane < length;
      const index_t t = tokens.begin + tile + lane;
      row_values[stage][warp][lane] = !inside     ? 0.f
                                      : warp == 0 ? slopes.lse(head, t) * log2_of_e
                                                  : slopes.projection(head, t);
    }
  };
  copy_rows<64, Qk>(k_tile, end - first, qk, anywhere, [&](int r, int c) { return key_rows.k(r, c); });
  copy_rows<64, V>(v_tile, end - first, v_dim, anywhere, [&](int r, int c) { return key_rows.v(r, c); });
  load(first);

  const float scale = in.scale * log2_of_e;
  const int row = first + warp * 16 + fragment_row(lane);
  float dk[Qk / 8][4] = {}, dv[V / 8][4] = {};
  for (int tile = first; tile < length; tile += 32) {
    if (tile + 32 < length) {
      load(tile + 32);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    const int stage = tile / 32 % 2;
    const std::uint32_t q_tile = shared_address(q_tiles + stage * 32 * mma_padded(Qk)),
                        d_o_tile = shared_address(d_o_tiles + stage * 32 * mma_padded(V));
    std::uint32_t weights[2][4];
    float scores[4][4] = {};
    multiply_tiles<Qk, 32>(scores, shared_address(k_tile + warp * 16 * mma_padded(Qk)), q_tile);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = n * 8 + fragment_column(lane) + i % 2, query = tile + column;
        const float p = exp2_approximately(scores[n][i] * scale - row_values[stage][0][column]);
        scores[n][i] = row + i / 2 * 8 <= query && query < length ? p : 0.f;
      }
    round_sums<32>(weights, scores);
    add_weighted_tile<32, V>(dv, weights, d_o_tile);
#pragma unroll
    for (int i = 0; i < 16; ++i) scores[i / 4][i % 4] = 0;
    multiply_tiles<V, 32>(scores, shared_address(v_tile + warp * 16 * mma_padded(V)), d_o_tile);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 p = unpack_bf16(weights[n / 2][n % 2 * 2 + i / 2]);
        // Where the weight is zero by force the gradient is one of zeros or of other tokens of the sequence.
        scores[n][i] = (i % 2 == 0 ? p.x : p.y) *
                       (scores[n][i] - row_values[stage][1][n * 8 + fragment_column(lane) + i % 2]);
      }
    round_sums<32>(weights, scores);
    add_weighted_tile<32, Qk>(dk, weights, q_tile);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const index_t t = tokens.begin + row + 8 * i;
    if (row + 8 * i >= end) continue;
#pragma unroll
    for (int n = 0; n < Qk / 8; ++n) {
      const float low = dk[n][2 * i] * in.scale, high = dk[n][2 * i + 1] * in.scale;
      if (const int c = n * 8 + fragment_column(lane); c < nope)
        *reinterpret_cast<std::uint32_t*>(&to.dkv(t, head, c)) = pack_bf16(low, high);
      else if (c < qk)
        *reinterpret_cast<float2*>(&to.partial(head, t, c - nope)) = {low, high};
    }
#pragma unroll
    for (int n = 0; n < V / 8; ++n)
      if (const int c = n * 8 + fragment_column(lane); c < v_dim)
        *reinterpret_cast<std::uint32_t*>(&to.dkv(t, head, nope + c)) =
            pack_bf16(dv[n][2 * i], dv[n][2 * i + 1]);
  }
}

// ---- launch -----------------------------------------------------------------------------------------------

inline launch_shape mma_shape(const packed_sequences& sequence, index_t heads, std::size_t shared_bytes) {
  return {.grid = {static_cast<unsigned>(most_tiles(sequence, mma_rows)), static_cast<unsigned>(heads)},
          .block = 128,
          .shared_bytes = shared_bytes};
}

template <int Qk, int V>
void mma_forward(const char* name, cudaStream_t stream, const attention_inputs<bf16, float>& in,
                 const view<bf16, 3>& o, const view<float, 2>& lse) {
  constexpr std::size_t q_bytes = sizeof(bf16) * mma_rows * mma_padded(Qk);
  launch(name, stream, mma_shape(in.queries, in.q.extent(1), q_bytes + mma_rows * mma_row_bytes(Qk, V)),
         mma_forward_kernel<Qk, V>, in, o, lse);
}

template <int Qk, int V>
void mma_backward(const char* name, cudaStream_t stream, const attention_inputs<bf16, float>& in,
                  const attention_slopes<bf16, float>& slopes, const attention_gradients<bf16, float>& to) {
  const launch_shape shape =
      mma_shape(in.queries, in.q.extent(1), (mma_rows + 2 * mma_step) * mma_row_bytes(Qk, V));
  launch(name, stream, shape, mma_queries_kernel<Qk, V>, in, slopes, to);
  launch(name, stream, shape, mma_keys_kernel<Qk, V>, in, slopes, to);
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
