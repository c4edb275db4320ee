// SPDX-License-Identifier: MIT
// Products of matrices of any element types, strides and alignment: what is left where matrix units and
// libraries refuse, and all there is for double.
#pragma once

#include <dsv3/base/index.hpp>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

inline constexpr int plain_tile = 64, plain_depth = 16, plain_threads = 256;

/// d(i, j) = sum over l of a(i, l) · b(l, j), or added: i below m, j below n, l below k. Every operand says
/// how far its neighbours along each of its axes lie apart.
template <class A, class B, class D>
struct plain_product {
  const A* a;
  index_t a_i, a_l;
  const B* b;
  index_t b_l, b_j;
  D* d;
  index_t d_i;
  index_t m, n, k;
  bool add;
};

// ---- kernels ----------------------------------------------------------------------------------------------

/// `Count` x plain_depth elements, from `first` along the outer axis and `l` along the sum, into room[l][i];
/// zeros beyond. Threads follow each other along whichever axis is contiguous.
template <class Acc, class T>
__device__ void load_plain(const T* from, index_t outer_stride, index_t sum_stride, index_t first,
                           index_t outer, index_t l, index_t k, Acc (&room)[plain_depth][plain_tile + 4]) {
  const int t = static_cast<int>(threadIdx.x);
  const bool along = sum_stride == 1;
  const int o = along ? t / plain_depth : t % plain_tile, o_step = along ? plain_threads / plain_depth : 0;
  const int s = along ? t % plain_depth : t / plain_tile, s_step = along ? 0 : plain_threads / plain_tile;
  const T* at = from + (first + o) * outer_stride + (l + s) * sum_stride;
  const index_t at_step = o_step * outer_stride + s_step * sum_stride;
#pragma unroll
  for (int i = 0; i < plain_tile * plain_depth / plain_threads; ++i) {
    const bool inside = first + o + i * o_step < outer && l + s + i * s_step < k;
    room[s + i * s_step][o + i * o_step] = inside ? static_cast<Acc>(at[i * at_step]) : Acc(0);
  }
}

/// The tile of d that starts at (i, j); by all threads of a block of plain_threads.
template <class Acc, class A, class B, class D>
__device__ void multiply_plain(const plain_product<A, B, D>& p, index_t i, index_t j) {
  __shared__ Acc a[plain_depth][plain_tile + 4], b[plain_depth][plain_tile + 4];
  const int row = static_cast<int>(threadIdx.x) / 16, column = static_cast<int>(threadIdx.x) % 16;
  Acc sums[4][4] = {};
  for (index_t l = 0; l < p.k; l += plain_depth) {
    load_plain(p.a, p.a_i, p.a_l, i, p.m, l, p.k, a);
    load_plain(p.b, p.b_j, p.b_l, j, p.n, l, p.k, b);
    __syncthreads();
#pragma unroll 4
    for (int s = 0; s < plain_depth; ++s) {
      Acc x[4], y[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) x[e] = a[s][row * 4 + e], y[e] = b[s][column + 16 * e];
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[r][c] += x[r] * y[c];
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const index_t at_i = i + row * 4 + r, at_j = j + column + 16 * c;
      if (at_i >= p.m || at_j >= p.n) continue;
      D& to = p.d[at_i * p.d_i + at_j];
      to = p.add ? D(static_cast<Acc>(to) + sums[r][c]) : D(sums[r][c]);
    }
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
