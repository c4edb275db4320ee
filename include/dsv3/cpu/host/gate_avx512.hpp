// SPDX-License-Identifier: MIT
// SwiGLU's rows of bf16 on processors with AVX-512 BW, 32 numbers at a time; empty for others.
#pragma once

#include <dsv3/cpu/host/rounding_avx512.hpp>

#if DSV3_AVX512

#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace dsv3::inline DSV3_ABI::cpu::avx512 {

/// x / (1 + exp(-x)), within 4 ulp where it is a normal number; a NaN stays one.
DSV3_FORCE_INLINE __m512 silu(__m512 x) {
  // -x = n ln 2 + r; beyond 104 the sum is 1, or infinite. Of a NaN and a bound the NaN is taken.
  const __m512 bounded = _mm512_min_ps(_mm512_set1_ps(104.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(bounded, _mm512_set1_ps(-1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmsub_ps(n, _mm512_set1_ps(0.693145752f), bounded);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
  __m512 e = _mm512_set1_ps(1.0f / 720);
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 120));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 24));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 6));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.5f));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_scalef_ps(e, n)));
}

/// The nearest bf16 in the upper halves, ties to even, of numbers that are no NaN.
DSV3_FORCE_INLINE __m512i nearest_upper(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), even);
}

/// As many of y = w · silu(gate) · up as groups of 32 have; returns how many. `each(i)` does 32 of which one
/// is a NaN, or becomes one.
template <class Each>
index_t gate(const bf16* gates, const bf16* ups, float w, bf16* y, index_t count, const Each& each) {
  const __m512 weight = _mm512_set1_ps(w);
  const __m512i upper = _mm512_set1_epi32(-0x10000);
  index_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m512i g = _mm512_loadu_si512(gates + i), u = _mm512_loadu_si512(ups + i);
    const auto product = [&](__m512i gate_bits, __m512i up_bits) {
      return _mm512_mul_ps(_mm512_mul_ps(weight, silu(_mm512_castsi512_ps(gate_bits))),
                           _mm512_castsi512_ps(up_bits));
    };
    const __m512 even = product(_mm512_slli_epi32(g, 16), _mm512_slli_epi32(u, 16));
    const __m512 odd = product(_mm512_and_si512(g, upper), _mm512_and_si512(u, upper));
    if (_mm512_cmp_ps_mask(even, odd, _CMP_UNORD_Q) != 0 || _mm512_cmpgt_epu16_mask(g, words(0xC2A0)) != 0)
      each(i);
    else
      _mm512_storeu_si512(
          y + i,
          _mm512_mask_blend_epi16(odd_words, _mm512_srli_epi32(nearest_upper(even), 16), nearest_upper(odd)));
  }
  return i;
}

}  // namespace dsv3::inline DSV3_ABI::cpu::avx512

#pragma GCC diagnostic pop

#endif
