// SPDX-License-Identifier: MIT
// Rows of narrow codes to numbers on processors with AVX-512 BW and VBMI2, 32 at a time; empty for others.
#pragma once

#include <dsv3/cpu/host/rounding_avx512.hpp>

#include <array>

#if DSV3_AVX512

#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace dsv3::inline DSV3_ABI::cpu::avx512 {

// ---- values as bf16, which holds them exactly
// -----------------------------------------------------------------------------------------------------------

/// Of all codes of 8 bits, without their signs.
template <class Element>
inline constexpr auto values_of = [] {
  std::array<std::uint16_t, 128> table{};
  for (unsigned code = 0; code < 128; ++code)
    table[code] = bf16(static_cast<float>(Element::from_bits(static_cast<std::uint8_t>(code)))).bits;
  return table;
}();

/// How to look up 32 values, and which of them the look-up does not know.
template <class Element>
class value_table {
 public:
  DSV3_FORCE_INLINE __m512i operator()(const Element* x, __mmask32& unknown) const {
    unknown = 0;
    const __m512i codes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
    const __mmask32 upper = _mm512_test_epi16_mask(codes, words(0x40));
    const __m512i magnitudes = _mm512_mask_blend_epi16(upper, _mm512_permutex2var_epi16(t0_, codes, t1_),
                                                       _mm512_permutex2var_epi16(t2_, codes, t3_));
    // magnitudes | (codes << 8 & 0x8000)
    return _mm512_ternarylogic_epi32(magnitudes, _mm512_slli_epi16(codes, 8), words(0x8000), 0xF8);
  }

 private:
  static __m512i part(int i) { return _mm512_loadu_si512(values_of<Element>.data() + 32 * i); }
  __m512i t0_ = part(0), t1_ = part(1), t2_ = part(2), t3_ = part(3);
};

/// Those of E5M6 are bf16 but for a bit of mantissa and the exponents' bias; not so below the smallest normal
/// number, and what is not finite.
template <>
class value_table<e5m6> {
 public:
  DSV3_FORCE_INLINE __m512i operator()(const e5m6* x, __mmask32& unknown) const {
    const __m512i codes = _mm512_loadu_si512(x), magnitudes = _mm512_and_si512(codes, words(0x7FF));
    const __mmask32 nonzero = _mm512_test_epi16_mask(magnitudes, magnitudes);
    unknown =
        _mm512_mask_cmpgt_epu16_mask(nonzero, _mm512_sub_epi16(magnitudes, words(0x40)), words(0x7BF - 0x40));
    const __m512i values =
        _mm512_maskz_add_epi16(nonzero, _mm512_slli_epi16(magnitudes, 1), words((127 - 15) << 7));
    return _mm512_ternarylogic_epi32(values, _mm512_slli_epi16(codes, 4), words(0x8000), 0xF8);
  }
};

// ---- products
// -----------------------------------------------------------------------------------------------------------

/// The factors of 32 numbers from i on: one for all, or one each.
template <class To>
DSV3_FORCE_INLINE factors widening_factors(float scale, index_t) {
  return {_mm512_set1_ps(scale), _mm512_set1_ps(scale)};
}
template <class To>
DSV3_FORCE_INLINE factors widening_factors(const float* scales, index_t i) {
  return in_order_of<To>({_mm512_loadu_ps(scales + i), _mm512_loadu_ps(scales + i + 16)});
}

DSV3_FORCE_INLINE void store_products(__m512i values, factors by, float* y) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(values));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(values, 1));
  _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(low, 16)), by.first));
  _mm512_storeu_ps(y + 16, _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(high, 16)), by.second));
}

/// To nearest, ties to even, in the upper 16 bits. Of the NaNs that a number of bf16 and a factor that is
/// none can make, the lower bits are zero: they stay NaN.
DSV3_FORCE_INLINE __m512i round_upper(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), even);
}
DSV3_FORCE_INLINE void store_products(__m512i values, factors by, bf16* y) {
  const __m512 evens = _mm512_castsi512_ps(_mm512_slli_epi32(values, 16));
  const __m512 odds = _mm512_castsi512_ps(_mm512_and_si512(values, _mm512_set1_epi32(-0x10000)));
  const __m512i even = round_upper(_mm512_mul_ps(evens, by.first)),
                odd = round_upper(_mm512_mul_ps(odds, by.second));
  _mm512_storeu_si512(y, _mm512_mask_blend_epi16(odd_words, _mm512_srli_epi32(even, 16), odd));
}

/// As many of y = x · scale as groups of 32 have; returns how many. `each(i)` does 32 that no table knows, or
/// whose scales are NaN.
template <class Element, class Scales, class To, class Each>
index_t widen(const Element* x, Scales scales, To* y, index_t count, const Each& each) {
  const value_table<Element> table;
  index_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const factors by = widening_factors<To>(scales, i);
    __mmask32 unknown;
    const __m512i values = table(x + i, unknown);
    if (unknown == 0 && _mm512_cmp_ps_mask(by.first, by.second, _CMP_UNORD_Q) == 0)
      store_products(values, by, y + i);
    else
      each(i);
  }
  return i;
}

}  // namespace dsv3::inline DSV3_ABI::cpu::avx512

#pragma GCC diagnostic pop

#endif
