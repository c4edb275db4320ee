// SPDX-License-Identifier: MIT
// The loops of host/narrow.hpp for processors with AVX-512 BW and VBMI2, 32 numbers at a time; empty
// for others.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/number/bf16.hpp>
#include <dsv3/number/fp8.hpp>

#include <array>
#include <cstdint>
#include <type_traits>

#if DSV3_AVX512

// GCC 12 takes the undefined registers that its own intrinsics begin with for uninitialised variables.
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

namespace dsv3::inline DSV3_ABI::cpu::avx512 {

template <class Element>
struct code_format;
template <>
struct code_format<fp8_e4m3> {
  static constexpr int mantissa_bits = 3, bias = 7;
  static constexpr short largest = 0x7E;
};
template <>
struct code_format<fp8_e5m2> {
  static constexpr int mantissa_bits = 2, bias = 15;
  static constexpr short largest = 0x7B;
};

DSV3_FORCE_INLINE __m512 load_floats(const float* x) { return _mm512_loadu_ps(x); }
DSV3_FORCE_INLINE __m512 load_floats(const bf16* x) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

/// Stores codes of the quotients whose products with a reciprocal are `low` (numbers 0 .. 15) and `high` (16
/// .. 31). Returns which of the products may not tell: those beside a tie, below the smallest normal number,
/// NaN. Products with the reciprocal of a power of two are the quotients: those are `exact`.
///
/// A product with a reciprocal is within 2.5 units in the last place of the rounded quotient. Both have the
/// same code, unless a tie of the format lies between them, so ties are recognised with 16 units to either
/// side. The rest takes the upper 16 bits of a number, with whether anything follows them as the last one.
template <bool exact, class Element>
DSV3_FORCE_INLINE __mmask32 round_products(__m512 low, __m512 high, Element* y) {
  using format = code_format<Element>;
  constexpr int dropped = 7 - format::mantissa_bits;
  constexpr int zero = (127 - format::bias) << 7, smallest_normal = zero + (1 << 7);
  const __m512i even_words = _mm512_add_epi16(
      _mm512_set1_epi32(0x00020000),
      _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                         _mm512_set1_epi32(0x00040004)));
  const __m512i a = _mm512_castps_si512(low), b = _mm512_castps_si512(high);
  const __m512i one = _mm512_set1_epi16(1);
  const __m512i tail = _mm512_permutex2var_epi16(a, even_words, b);
  const __m512i head = _mm512_permutex2var_epi16(a, _mm512_add_epi16(even_words, one), b);
  const __m512i number = _mm512_or_si512(head, _mm512_min_epu16(tail, one));
  const __m512i magnitude = _mm512_and_si512(number, _mm512_set1_epi16(0x7FFF));

  __mmask32 doubtful = _mm512_mask_cmpgt_epu16_mask(
      _mm512_test_epi16_mask(magnitude, magnitude),
      _mm512_sub_epi16(magnitude, _mm512_set1_epi16(static_cast<short>(smallest_normal))),
      _mm512_set1_epi16(static_cast<short>(0x7F80 - smallest_normal)));
  if constexpr (!exact) {
    // What follows the format's last bit, to 16 bits; half a step is 0x8000.
    const __m512i rest = _mm512_shldi_epi16(head, tail, 16 - dropped);
    doubtful |= _mm512_cmple_epu16_mask(_mm512_sub_epi16(rest, _mm512_set1_epi16(0x7FFF)), one);
  }

  const __m512i half = _mm512_set1_epi16((1 << (dropped - 1)) - 1);
  const __m512i steps = _mm512_subs_epu16(magnitude, _mm512_set1_epi16(static_cast<short>(zero)));
  const __m512i rounded =
      _mm512_srli_epi16(_mm512_add_epi16(_mm512_add_epi16(steps, half),
                                         _mm512_and_si512(_mm512_srli_epi16(steps, dropped), one)),
                        dropped);
  const __m512i bounded = _mm512_min_epu16(rounded, _mm512_set1_epi16(format::largest));
  // bounded | (number >> 8 & 0x80)
  const __m512i codes =
      _mm512_ternarylogic_epi32(bounded, _mm512_srli_epi16(number, 8), _mm512_set1_epi16(0x80), 0xF8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_cvtepi16_epi8(codes));
  return doubtful;
}

/// As many of y = Element(x / scale) as groups of 32 have; returns how many. `multipliers(i)` are 16
/// reciprocals from number i on, `each(i)` does 32 numbers by division: afterwards, because in the loop it
/// would take the registers that hold constants.
template <bool exact, class From, class Element, class Multipliers, class Each>
DSV3_FORCE_INLINE index_t narrow(const From* x, Element* y, index_t count, Multipliers&& multipliers,
                                 Each&& each) {
  index_t i = 0;
  while (i + 32 <= count) {
    const index_t begin = i;
    std::uint64_t again = 0;  // one bit for each group
    for (std::uint64_t group = 1; group != 0 && i + 32 <= count; group <<= 1, i += 32) {
      const __m512 low = _mm512_mul_ps(load_floats(x + i), multipliers(i));
      const __m512 high = _mm512_mul_ps(load_floats(x + i + 16), multipliers(i + 16));
      if (round_products<exact>(low, high, y + i) != 0) again |= group;
    }
    for (; again != 0; again &= again - 1) each(begin + 32 * __builtin_ctzll(again));
  }
  return i;
}

/// The values of all codes without sign as bf16, which holds them exactly.
template <class Element>
inline constexpr auto values_of = [] {
  std::array<std::uint16_t, 128> table{};
  for (unsigned code = 0; code < 128; ++code)
    table[code] = bf16(static_cast<float>(Element::from_bits(static_cast<std::uint8_t>(code)))).bits;
  return table;
}();

DSV3_FORCE_INLINE void store_products(__m512 low, __m512 high, float* y) {
  _mm512_storeu_ps(y, low);
  _mm512_storeu_ps(y + 16, high);
}
// Rounded as bf16's constructor does it.
DSV3_FORCE_INLINE __m512i rounded_words(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
  const __m512i even = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), even);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(_mm512_srli_epi32(sum, 16), nan, upper, _mm512_set1_epi32(0x40));
}
DSV3_FORCE_INLINE void store_products(__m512 low, __m512 high, bf16* y) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_cvtepi32_epi16(rounded_words(low)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + 16), _mm512_cvtepi32_epi16(rounded_words(high)));
}

/// As many of y = x · scale as groups of 32 have; returns how many.
template <class Element, class To>
index_t widen(const Element* x, float scale, To* y, index_t count) {
  const std::uint16_t* table = values_of<Element>.data();
  const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 32);
  const __m512i t2 = _mm512_loadu_si512(table + 64), t3 = _mm512_loadu_si512(table + 96);
  const __m512 factor = _mm512_set1_ps(scale);
  index_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m512i codes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i)));
    const __mmask32 upper = _mm512_test_epi16_mask(codes, _mm512_set1_epi16(0x40));
    const __m512i magnitudes = _mm512_mask_blend_epi16(upper, _mm512_permutex2var_epi16(t0, codes, t1),
                                                       _mm512_permutex2var_epi16(t2, codes, t3));
    // magnitudes | (codes << 8 & 0x8000)
    const __m512i values = _mm512_ternarylogic_epi32(magnitudes, _mm512_slli_epi16(codes, 8),
                                                     _mm512_set1_epi16(static_cast<short>(0x8000)), 0xF8);
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(values));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(values, 1));
    store_products(_mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(low, 16)), factor),
                   _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(high, 16)), factor), y + i);
  }
  return i;
}

template <class From, class Element>
inline constexpr bool takes = (std::is_same_v<From, float> ||
                               std::is_same_v<From, bf16>)&&(std::is_same_v<Element, fp8_e4m3> ||
                                                             std::is_same_v<Element, fp8_e5m2>);

}  // namespace dsv3::inline DSV3_ABI::cpu::avx512

#pragma GCC diagnostic pop

#endif
