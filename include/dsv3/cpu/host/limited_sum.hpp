// SPDX-License-Identifier: MIT
// A model of matrix units that add up products of 8-bit numbers with few bits.
#pragma once

#include <dsv3/cpu/host/vector.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cpu {

/// Hopper's matrix unit, as far as one can tell from outside (report, section 3.5.2; the hardware is
/// undocumented). In a step, `step` exact products and the running sum are cut towards zero to multiples of
/// 2^(e - fraction_bits), where 2^e is the leading bit of the largest of them; the cut numbers are added
/// exactly. What is kept has an exponent of 8 bits and a fraction of `fraction_bits`, cut again: FP22.
struct limited_sum {
  static constexpr index_t step = 32;
  static constexpr int fraction_bits = 13;
  static constexpr float most = 0x1p100f;  // sums must stay below it

  /// sums[r][j] goes on over a[r][i] · b[i][j], i < depth, for `rows` rows and vector_lanes<float> columns j
  /// that lie side by side. a and b hold values of 8-bit numbers, all finite; rows of b adjoin. What lies
  /// below 2^-126 in the sums counts as zero.
  template <index_t rows>
  static void add(index_t depth, const float* a, index_t a_stride, const float* b, float* sums,
                  index_t sums_stride) {
    vector<float> running[rows];
    DSV3_UNROLL
    for (index_t r = 0; r < rows; ++r) running[r] = load_vector<float>(sums + r * sums_stride);
    for (index_t first = 0; first < depth; first += step)
      add_step<rows>(std::min(step, depth - first), a + first, a_stride, b + first * vector_lanes<float>,
                     running);
    DSV3_UNROLL
    for (index_t r = 0; r < rows; ++r) std::memcpy(sums + r * sums_stride, &running[r], sizeof(running[r]));
  }

 private:
  static_assert(step << (fraction_bits + 1) < 1 << 24, "a step's sum is exact in a float");
  using floats = vector<float>;
  using integers = vector<std::int32_t>;

  static constexpr std::int32_t magnitude_bits = 0x7FFFFFFF, exponent_bits = 0x7F800000;
  static constexpr std::int32_t one = 0x800000;  // added to a float's bits, doubles it

  DSV3_FORCE_INLINE static integers larger(integers x, integers y) { return x > y ? x : y; }

  template <index_t rows>
  DSV3_FORCE_INLINE static void add_step(index_t count, const float* a, index_t a_stride, const float* b,
                                         floats (&running)[rows]) {
    // The bits of positive floats are ordered as the floats are.
    integers largest[rows], total[rows];
    DSV3_UNROLL
    for (index_t r = 0; r < rows; ++r)
      largest[r] = larger((integers)running[r] & magnitude_bits, integers{} + (fraction_bits + 1) * one);
    for (index_t i = 0; i < count; ++i) {
      const floats from = load_vector<float>(b + i * vector_lanes<float>);
      DSV3_UNROLL
      for (index_t r = 0; r < rows; ++r)
        largest[r] = larger((integers)(from * a[r * a_stride + i]) & magnitude_bits, largest[r]);
    }
    floats inverse[rows];  // of what the cut numbers are multiples of
    DSV3_UNROLL
    for (index_t r = 0; r < rows; ++r) {
      largest[r] &= exponent_bits;
      inverse[r] = (floats)((2u * 127 + fraction_bits) * one - (vector<std::uint32_t>)largest[r]);
      total[r] = __builtin_convertvector(running[r] * inverse[r], integers);
    }
    for (index_t i = 0; i < count; ++i) {
      const floats from = load_vector<float>(b + i * vector_lanes<float>);
      DSV3_UNROLL
      for (index_t r = 0; r < rows; ++r)
        total[r] += __builtin_convertvector(from * a[r * a_stride + i] * inverse[r], integers);
    }
    DSV3_UNROLL
    for (index_t r = 0; r < rows; ++r) {
      const floats unit = (floats)(largest[r] - fraction_bits * one);
      const floats sum = __builtin_convertvector(total[r], floats) * unit;
      running[r] = (floats)((integers)sum & -(std::int32_t{1} << (23 - fraction_bits)));
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI::cpu
