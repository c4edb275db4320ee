// SPDX-License-Identifier: MIT
// Largest magnitudes on processors with AVX-512 BW; empty for others.
#pragma once

#include <dsv3/cpu/host/rounding_avx512.hpp>

#if DSV3_AVX512

#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace dsv3::inline DSV3_ABI::cpu::avx512 {

// ---- magnitudes
// -----------------------------------------------------------------------------------------------------------

// Largest patterns without their signs. A NaN's is larger than any number's: whoever finds one looks again.
DSV3_FORCE_INLINE __m512i larger_patterns(__m512i a, __m512i b, bf16) {
  return _mm512_max_epu16(a, _mm512_and_si512(b, words(0x7FFF)));
}
DSV3_FORCE_INLINE __m512i larger_patterns(__m512i a, __m512i b, float) {
  return _mm512_max_epu32(a, _mm512_and_si512(b, _mm512_set1_epi32(0x7FFFFFFF)));
}
DSV3_FORCE_INLINE bool finds_nan(__m512i patterns, bf16) {
  return _mm512_cmpgt_epu16_mask(patterns, words(0x7F80)) != 0;
}
DSV3_FORCE_INLINE bool finds_nan(__m512i patterns, float) {
  return _mm512_cmpgt_epu32_mask(patterns, _mm512_set1_epi32(0x7F800000)) != 0;
}

/// The largest of 32 patterns.
DSV3_FORCE_INLINE std::uint16_t largest_word(__m512i x) {
  const __m256i y = _mm256_max_epu16(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
  const __m128i z = _mm_max_epu16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
  const __m128i inverted = _mm_xor_si128(z, _mm_set1_epi16(-1));
  return static_cast<std::uint16_t>(~_mm_extract_epi16(_mm_minpos_epu16(inverted), 0));
}

/// The largest pattern of a tile's 128 numbers.
DSV3_FORCE_INLINE std::uint16_t largest_of_tile(const bf16* x) {
  __m512i largest = _mm512_setzero_si512();
  DSV3_UNROLL
  for (int i = 0; i < 4; ++i) largest = larger_patterns(largest, _mm512_loadu_si512(x + 32 * i), bf16());
  return largest_word(largest);
}
DSV3_FORCE_INLINE std::uint32_t largest_of_tile(const float* x) {
  __m512i a = _mm512_setzero_si512(), b = a;
  DSV3_UNROLL
  for (int i = 0; i < 4; ++i) {
    a = larger_patterns(a, _mm512_loadu_si512(x + 32 * i), float());
    b = larger_patterns(b, _mm512_loadu_si512(x + 32 * i + 16), float());
  }
  return _mm512_reduce_max_epu32(_mm512_max_epu32(a, b));
}

/// largest[c] becomes the largest pattern of column c, of as many columns as groups of 256 bytes have;
/// returns how many, none where it finds a NaN.
template <class From, class Bits>
index_t largest_of_columns(const From* x, index_t stride, index_t rows, Bits* largest, index_t count) {
  constexpr index_t width = 64 / index_t{sizeof(From)}, wide = 4 * width;
  index_t c = 0;
  for (; c + wide <= count; c += wide) {
    __m512i of[4];
    DSV3_UNROLL
    for (int k = 0; k < 4; ++k) of[k] = _mm512_loadu_si512(largest + c + k * width);
    for (index_t r = 0; r < rows; ++r) DSV3_UNROLL
    for (int k = 0; k < 4; ++k)
      of[k] = larger_patterns(of[k], _mm512_loadu_si512(x + r * stride + c + k * width), From());
    DSV3_UNROLL
    for (int k = 0; k < 4; ++k) {
      if (finds_nan(of[k], From())) return c;
      _mm512_storeu_si512(largest + c + k * width, of[k]);
    }
  }
  return c;
}

}  // namespace dsv3::inline DSV3_ABI::cpu::avx512

#pragma GCC diagnostic pop

#endif
