// SPDX-License-Identifier: MIT
// Products over scaled tiles summed in few bits: the model of a matrix unit that cpu/host/limited_sum.hpp
// defines, bit for bit. It is for the study of promotion intervals; one thread makes four sums.
#pragma once

#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/linear/group_tiles.cuh>
#include <dsv3/cuda/linear/scaled/problem.cuh>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

inline constexpr int limited_tile = 32, limited_stretch = 128, limited_sums = 4;

// ---- kernels ----------------------------------------------------------------------------------------------

/// A running sum of products. In a step, `step` exact products and the sum are cut towards zero to multiples
/// of 2^(e - fraction_bits), where 2^e is the leading bit of the largest of them; the cut numbers are added
/// exactly, and what is kept is cut to `fraction_bits` of fraction.
struct limited_sum {
  static constexpr int step = 32, fraction_bits = 13;
  static constexpr float most = 0x1p100f;  // sums must stay below it

  float value = 0;

  /// Goes on over a[i] * b[i * b_stride], i < step: a step has as many products, some perhaps zero.
  __device__ void add(const float* a, const float* b, int b_stride) {
    constexpr int magnitude = 0x7FFFFFFF, exponent = 0x7F800000, one = 0x800000;  // of a float's bits
    int largest = max(__float_as_int(value) & magnitude, (fraction_bits + 1) * one);
#pragma unroll 4
    for (int i = 0; i < step; ++i)
      largest = max(largest, __float_as_int(__fmul_rn(a[i], b[i * b_stride])) & magnitude);
    largest &= exponent;
    // Of what the cut numbers are multiples of; beyond the range of int only as the sign is one.
    const float inverse =
        __uint_as_float((2u * 127 + fraction_bits) * unsigned{one} - static_cast<unsigned>(largest));
    int total = __float2int_rz(__fmul_rn(value, inverse));
#pragma unroll 4
    for (int i = 0; i < step; ++i)
      total += __float2int_rz(__fmul_rn(__fmul_rn(a[i], b[i * b_stride]), inverse));
    const float sum = __fmul_rn(static_cast<float>(total), __int_as_float(largest - fraction_bits * one));
    value = __int_as_float(__float_as_int(sum) & -(1 << (23 - fraction_bits)));
  }
};

/// A block makes 32 x 32 of c: a warp four rows, a lane one column of them.
template <class A, class C, grouped_by By, sum_runs Runs>
__global__ __launch_bounds__(256, 2) void limited_product_kernel(const scaled_problem<A, C> all) {
  __shared__ float left[limited_tile][limited_stretch], right[limited_stretch][limited_tile + 1];
  __shared__ int bad_rows[limited_tile], bad_columns[limited_tile];
  index_t group = blockIdx.z, row = static_cast<index_t>(blockIdx.x) * limited_tile;
  if (By == grouped_by::rows && !all.groups.all()) {
    const group_rows rows{all.groups.offsets.data(), all.groups.counts.data(),
                          static_cast<int>(all.groups.groups())};
    const group_tile tile = find_tile<limited_tile>(rows, static_cast<int>(blockIdx.x));
    if (tile.group < 0) return;
    group = tile.group, row = tile.row;
  }
  const auto p = all.template group<By>(group);
  if (By == grouped_by::terms && p.k == 0 && p.into == store::add) return;
  const index_t column = static_cast<index_t>(blockIdx.y) * limited_tile;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, own = thread / 32 * limited_sums;
  if (thread < limited_tile) bad_rows[thread] = bad_columns[thread] = 0;
  // Codes that are not finite count as zero and spoil their row or column.
  const auto finite = [](float value, int& bad) {
    if ((__float_as_int(value) & 0x7F800000) != 0x7F800000) return value;
    bad = 1;
    return 0.0f;
  };

  limited_sum sums[limited_sums];
  float totals[limited_sums] = {}, scales[limited_sums] = {}, former[limited_sums] = {};
  float column_scale = 1, former_column = 1;
  bool goes_on = false;
  for (index_t k = 0; k < p.k; k += limited_stretch) {
    __syncthreads();
    for (int i = thread; i < limited_tile * limited_stretch; i += 256) {
      const int r = i / limited_stretch, l = i % limited_stretch;
      const bool live = row + r < p.m && k + l < p.k;
      left[r][l] = live ? finite(static_cast<float>(p.a[(row + r) * p.a_stride + k + l]), bad_rows[r]) : 0.0f;
    }
    for (int i = thread; i < limited_tile * limited_stretch; i += 256) {
      const int c = Runs == sum_runs::along ? i / limited_stretch : i % limited_tile,
                l = Runs == sum_runs::along ? i % limited_stretch : i / limited_tile;
      const bool live = column + c < p.n && k + l < p.k;
      const fp8_e4m3* from = p.b + (Runs == sum_runs::along ? (column + c) * p.b_stride + k + l
                                                            : (k + l) * p.b_stride + column + c);
      right[l][c] = live ? finite(static_cast<float>(*from), bad_columns[c]) : 0.0f;
    }
    __syncthreads();

    former_column = column_scale;
    const index_t at = k / limited_stretch;
    column_scale = column + lane < p.n ? p.b_scales.of(column + lane)[at * p.b_scales.tile_stride] : 1;
    const bool promotes =
        k + limited_stretch >= p.k || (p.promotion > 0 && (k + limited_stretch) % p.promotion == 0);
#pragma unroll
    for (int i = 0; i < limited_sums; ++i) {
      former[i] = scales[i];
      scales[i] = row + own + i < p.m ? p.a_scales.of(row + own + i)[at * p.a_scales.tile_stride] : 1;
      if (goes_on) {  // a sum that goes on is expressed in the scales of this stretch
        const float scaled = sums[i].value * ((former[i] * former_column) / (scales[i] * column_scale));
        const bool takes = scaled > -limited_sum::most && scaled < limited_sum::most;
        sums[i].value = takes ? scaled : 0.0f;
        if (!takes) totals[i] = __int_as_float(0x7FC00000);
      }
      for (int l = 0; l < limited_stretch && k + l < p.k; l += limited_sum::step)
        sums[i].add(left[own + i] + l, right[l] + lane, limited_tile + 1);
      if (promotes) totals[i] += sums[i].value * (scales[i] * column_scale), sums[i].value = 0;
    }
    goes_on = !promotes;
  }
  __syncthreads();
  if (column + lane >= p.n) return;
#pragma unroll
  for (int i = 0; i < limited_sums; ++i) {
    if (row + own + i >= p.m) return;
    C& c = p.c[(row + own + i) * p.c_stride + column + lane];
    const float total = bad_rows[own + i] | bad_columns[lane] ? __int_as_float(0x7FC00000) : totals[i];
    c = C(p.into == store::add ? static_cast<float>(c) + total : total);
  }
}

// ---- launch -----------------------------------------------------------------------------------------------

template <grouped_by By, sum_runs Runs, class A, class C>
void launch_limited_product(const char* name, cudaStream_t stream, const scaled_problem<A, C>& p) {
  const launch_shape shape{
      .grid = dim3(static_cast<unsigned>(most_row_tiles<By>(p, limited_tile)),
                   static_cast<unsigned>(ceil_div(p.n, limited_tile)),
                   By == grouped_by::terms ? static_cast<unsigned>(p.groups.groups()) : 1),
      .block = 256};
  launch(name, stream, shape, limited_product_kernel<A, C, By, Runs>, p);
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
