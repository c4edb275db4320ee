// SPDX-License-Identifier: MIT
// Latent attention for any precision and any widths, without matrix units: tiles of 32 by 32 scores, each row
// summed in one order wherever it stands, and nothing masked ever multiplied.
#pragma once

#include <dsv3/cuda/attention/mla_attention/problem.cuh>

#include <cmath>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// A block of 256 threads owns `tile` rows of what it writes, and `columns` of their columns. Thread (x, y)
/// of 16 by 16 has the rows y and y + 16, and every sixteenth column from x on.
struct plain_attention {
  static constexpr int tile = 32, columns = 128;
};

/// Which gradient a kernel computes.
enum class gradient_of { q, k, v };

// ---- kernels ----------------------------------------------------------------------------------------------

template <class Acc>
struct plain_room {
  Acc left[32][17], right[32][17];  // some columns of two tiles of rows
  Acc weights[32][33];              // of the rows that the block writes, over a tile of others
  Acc source[16][128];              // some of those others
};

/// The product rounded by itself: forward and backward must see the same score to the bit, as a sharp softmax
/// turns the last bit of a large score into all or nothing.
__device__ __forceinline__ float rounded_product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double rounded_product(double a, double b) { return __dmul_rn(a, b); }

/// sums[i][j] = Σ_e left(y + 16 i, e) · right(x + 16 j, e), e ascending.
template <class Acc, class Left, class Right>
__device__ void multiply_rows(Acc (&sums)[2][2], index_t width, plain_room<Acc>& room, Left left,
                              Right right) {
  const int x = static_cast<int>(threadIdx.x % 16), y = static_cast<int>(threadIdx.x / 16);
  for (auto& row : sums) row[0] = row[1] = 0;
  for (index_t first = 0; first < width; first += 16) {
    __syncthreads();
    for (int i = 0; i < 2; ++i) {
      const bool inside = first + x < width;
      room.left[y + 16 * i][x] = inside ? left(y + 16 * i, first + x) : Acc(0);
      room.right[y + 16 * i][x] = inside ? right(y + 16 * i, first + x) : Acc(0);
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < 16; ++e)
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j)
          sums[i][j] = fma(room.left[y + 16 * i][e], room.right[x + 16 * j][e], sums[i][j]);
  }
}

/// sums[i][j] += Σ_k weights[y + 16 i][k] · source(k, x + 16 j) over the k in visible[i], ascending. The
/// other weights are not looked at.
template <class Acc, class Source>
__device__ void add_weighted_rows(Acc (&sums)[2][8], const index_range (&visible)[2], index_t columns,
                                  plain_room<Acc>& room, Source source) {
  const int x = static_cast<int>(threadIdx.x % 16), y = static_cast<int>(threadIdx.x / 16);
  for (int first = 0; first < 32; first += 16) {
    __syncthreads();
    for (int at = static_cast<int>(threadIdx.x); at < 16 * 128; at += 256) {
      const int k = at / 128, column = at % 128;
      room.source[k][column] = column < columns ? source(first + k, column) : Acc(0);
    }
    __syncthreads();
    for (int k = 0; k < 16; ++k)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (visible[i].begin <= first + k && first + k < visible[i].end) {
          const Acc weight = room.weights[y + 16 * i][first + k];
#pragma unroll
          for (int j = 0; j < 8; ++j) sums[i][j] = fma(weight, room.source[k][x + 16 * j], sums[i][j]);
        }
  }
}

/// Element e of key j of a head.
template <class Element, class Acc>
__device__ __forceinline__ Acc key_at(const attention_inputs<Element, Acc>& in, index_t j, index_t head,
                                      index_t e) {
  const index_t nope = in.nope();
  return static_cast<Acc>(e < nope ? in.kv(j, head, e) : in.k_rope(j, e - nope));
}

/// o and lse of 32 queries of a head, in 128 columns of o.
template <class Element, class Acc>
__global__ void __launch_bounds__(256)
    plain_forward_kernel(attention_inputs<Element, Acc> in, view<Element, 3> o, view<Acc, 2> lse) {
  __shared__ plain_room<Acc> room;
  __shared__ Acc shares[32];  // first how much of the sums so far stays, at the end the sum of exponentials
  const sequence_tile at = find_tile(in.queries, 32, blockIdx.x);
  if (at.sequence < 0) return;
  const index_t head = blockIdx.y, first_column = static_cast<index_t>(blockIdx.z) * 128;
  const index_range tokens = tokens_of(in.queries, at.sequence), keys = tokens_of(in.keys, at.sequence);
  const index_t first = (at.tiles - 1 - at.tile) * 32;   // late queries see most keys and go first
  const index_t before = keys.count() - tokens.count();  // keys that all queries see
  const index_t end = min(first + 32, tokens.count()), nope = in.nope();
  const int x = static_cast<int>(threadIdx.x % 16), y = static_cast<int>(threadIdx.x / 16);
  const int row = static_cast<int>(threadIdx.x / 8), part = static_cast<int>(threadIdx.x % 8);
  const Acc infinity = INFINITY;
  Acc highest = -infinity, sum = 0, out[2][8] = {};
  for (index_t tile = 0; tile < before + end; tile += 32) {
    const auto seen = [&](index_t r) {
      return first + r < end ? max(index_t{0}, min(before + first + r + 1 - tile, index_t{32})) : index_t{0};
    };
    Acc scores[2][2];
    multiply_rows(
        scores, in.qk(), room,
        [&](int r, index_t e) {
          return first + r < end ? static_cast<Acc>(in.q(tokens.begin + first + r, head, e)) : Acc(0);
        },
        [&](int j, index_t e) {
          return tile + j < keys.count() ? key_at(in, keys.begin + tile + j, head, e) : Acc(0);
        });
    __syncthreads();
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j)
        room.weights[y + 16 * i][x + 16 * j] = rounded_product(scores[i][j], in.scale);
    __syncthreads();
    const index_t count = seen(row);
    Acc top = highest, added = 0;
    for (int j = part; j < count; j += 8) top = max(top, room.weights[row][j]);
    top = reduce_lanes<8>(top, [](Acc a, Acc b) { return max(a, b); });
    // Where every score so far is -infinity there is nothing to subtract: exp gives zero anyway.
    const Acc shift = top == -infinity ? Acc(0) : top;
    for (int j = part; j < count; j += 8) added += room.weights[row][j] = exp(room.weights[row][j] - shift);
    const Acc stays = exp(highest - shift);
    sum = sum * stays + sum_lanes<8>(added), highest = top;
    if (part == 0) shares[row] = stays;
    __syncthreads();
    const index_range visible[2] = {{0, seen(y)}, {0, seen(y + 16)}};
    for (int i = 0; i < 2; ++i)
      for (Acc& value : out[i]) value *= shares[y + 16 * i];
    add_weighted_rows(out, visible, in.v_dim() - first_column, room, [&](int j, int column) {
      return tile + j < keys.count()
                 ? static_cast<Acc>(in.kv(keys.begin + tile + j, head, nope + first_column + column))
                 : Acc(0);
    });
  }
  __syncthreads();
  if (part == 0) {
    shares[row] = sum;
    if (blockIdx.z == 0 && !lse.empty() && first + row < end)
      lse(head, tokens.begin + first + row) = highest + log(sum);
  }
  __syncthreads();
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 8; ++j)
      if (const index_t r = first + y + 16 * i, c = first_column + x + 16 * j; r < end && c < in.v_dim())
        o(tokens.begin + r, head, c) = Element(out[i][j] / shares[y + 16 * i]);
}

/// 32 rows of one gradient of a head, in 128 of its columns. Rows of dq walk over the keys they saw, rows of
/// dk and dv over the queries that saw them.
template <gradient_of Of, class Element, class Acc>
__global__ void __launch_bounds__(256)
    plain_backward_kernel(attention_inputs<Element, Acc> in, attention_slopes<Element, Acc> slopes,
                          attention_gradients<Element, Acc> to) {
  __shared__ plain_room<Acc> room;
  constexpr bool by_query = Of == gradient_of::q;
  const sequence_tile at = find_tile(in.queries, 32, blockIdx.x);
  if (at.sequence < 0) return;
  const index_t head = blockIdx.y, first_column = static_cast<index_t>(blockIdx.z) * 128;
  const index_range tokens = tokens_of(in.queries, at.sequence);
  const index_t length = tokens.count(), nope = in.nope();
  const index_t own = 32 * (by_query ? at.tiles - 1 - at.tile : at.tile);
  const int x = static_cast<int>(threadIdx.x % 16), y = static_cast<int>(threadIdx.x / 16);
  const auto q_at = [&](index_t t, index_t e) {
    return t < length ? static_cast<Acc>(in.q(tokens.begin + t, head, e)) : Acc(0);
  };
  const auto d_o_at = [&](index_t t, index_t e) {
    return t < length ? static_cast<Acc>(slopes.d_o(tokens.begin + t, head, e)) : Acc(0);
  };
  const auto k_at = [&](index_t j, index_t e) {
    return j < length ? key_at(in, tokens.begin + j, head, e) : Acc(0);
  };
  const auto v_at = [&](index_t j, index_t e) {
    return j < length ? static_cast<Acc>(in.kv(tokens.begin + j, head, nope + e)) : Acc(0);
  };
  const index_t width = Of == gradient_of::v ? in.v_dim() : in.qk();
  Acc out[2][8] = {};
  const index_t begin = by_query ? 0 : own, end = by_query ? min(own + 32, length) : length;
  for (index_t other = begin; other < end; other += 32) {
    const index_t queries = by_query ? own : other, keys = by_query ? other : own;
    Acc scores[2][2], slope[2][2];  // [of own rows][of other rows]
    if constexpr (by_query) {
      multiply_rows(
          scores, in.qk(), room, [&](int r, index_t e) { return q_at(own + r, e); },
          [&](int j, index_t e) { return k_at(other + j, e); });
      multiply_rows(
          slope, in.v_dim(), room, [&](int r, index_t e) { return d_o_at(own + r, e); },
          [&](int j, index_t e) { return v_at(other + j, e); });
    } else {
      multiply_rows(
          scores, in.qk(), room, [&](int r, index_t e) { return k_at(own + r, e); },
          [&](int j, index_t e) { return q_at(other + j, e); });
      if constexpr (Of == gradient_of::k)
        multiply_rows(
            slope, in.v_dim(), room, [&](int r, index_t e) { return v_at(own + r, e); },
            [&](int j, index_t e) { return d_o_at(other + j, e); });
    }
    __syncthreads();
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j) {
        const index_t t = tokens.begin + min(queries + (by_query ? y + 16 * i : x + 16 * j), length - 1);
        Acc weight = exp(rounded_product(scores[i][j], in.scale) - slopes.lse(head, t));
        if constexpr (Of != gradient_of::v)
          weight = weight * (slope[i][j] - slopes.projection(head, t)) * in.scale;
        room.weights[y + 16 * i][x + 16 * j] = weight;
      }
    // A key is seen by the queries from its own place on.
    index_range visible[2];
    for (int i = 0; i < 2; ++i) {
      const index_t r = own + y + 16 * i;
      if (r < length)
        visible[i] = by_query ? index_range{0, min(queries + y + 16 * i + 1 - keys, index_t{32})}
                              : index_range{max(keys + y + 16 * i - queries, index_t{0}),
                                            min(length - queries, index_t{32})};
    }
    add_weighted_rows(out, visible, width - first_column, room, [&](int k, int column) {
      const index_t r = other + k, e = first_column + column;
      if constexpr (Of == gradient_of::q)
        return k_at(r, e);
      else if constexpr (Of == gradient_of::k)
        return q_at(r, e);
      else
        return d_o_at(r, e);
    });
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 8; ++j) {
      const index_t r = own + y + 16 * i, t = tokens.begin + r, c = first_column + x + 16 * j;
      if (r >= length || c >= width) continue;
      if constexpr (Of == gradient_of::q)
        to.dq(t, head, c) = Element(out[i][j]);
      else if constexpr (Of == gradient_of::v)
        to.dkv(t, head, nope + c) = Element(out[i][j]);
      else if (c < nope)
        to.dkv(t, head, c) = Element(out[i][j]);
      else
        to.partial(head, t, c - nope) = out[i][j];
    }
}

// ---- launch -----------------------------------------------------------------------------------------------

inline dim3 plain_grid(const packed_sequences& sequence, index_t heads, index_t columns) {
  return {static_cast<unsigned>(most_tiles(sequence, plain_attention::tile)), static_cast<unsigned>(heads),
          static_cast<unsigned>(ceil_div(columns, index_t{plain_attention::columns}))};
}

template <class Element, class Acc>
void plain_forward(const char* name, cudaStream_t stream, const attention_inputs<Element, Acc>& in,
                   const view<Element, 3>& o, const view<Acc, 2>& lse) {
  // Where there are no columns of o, the first of none still writes lse.
  launch(name, stream, {.grid = plain_grid(in.queries, in.q.extent(1), std::max(in.v_dim(), index_t{1}))},
         plain_forward_kernel<Element, Acc>, in, o, lse);
}

template <class Element, class Acc>
void plain_backward(const char* name, cudaStream_t stream, const attention_inputs<Element, Acc>& in,
                    const attention_slopes<Element, Acc>& slopes,
                    const attention_gradients<Element, Acc>& to) {
  const auto start = [&](index_t columns, auto kernel) {
    launch(name, stream, {.grid = plain_grid(in.queries, in.q.extent(1), columns)}, kernel, in, slopes, to);
  };
  start(in.qk(), plain_backward_kernel<gradient_of::q, Element, Acc>);
  start(in.qk(), plain_backward_kernel<gradient_of::k, Element, Acc>);
  start(in.v_dim(), plain_backward_kernel<gradient_of::v, Element, Acc>);
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
