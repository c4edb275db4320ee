// SPDX-License-Identifier: MIT
// Numbers to narrow codes in the registers of AVX-512 BW and VBMI2, 32 at a time; empty for other processors.
#pragma once

#include <dsv3/cpu/host/tile_scales.hpp>
#include <dsv3/number/e5m6.hpp>
#include <dsv3/number/fp8.hpp>

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
  static constexpr int largest = 0x7E;
};
template <>
struct code_format<fp8_e5m2> {
  static constexpr int mantissa_bits = 2, bias = 15;
  static constexpr int largest = 0x7B;
};
template <>
struct code_format<e5m6> {
  static constexpr int mantissa_bits = 6, bias = 15;
  static constexpr int largest = 0x7BF;
};

DSV3_FORCE_INLINE __m512i words(int value) { return _mm512_set1_epi16(static_cast<short>(value)); }
inline constexpr __mmask32 odd_words = 0xAAAAAAAAu;

// ---- quotients
// -----------------------------------------------------------------------------------------------------------

/// What 32 numbers are multiplied or divided by. Those of bf16 are taken apart by shifts, so that `first`
/// belongs to the numbers 0, 2, .. and `second` to 1, 3, ..; of floats they are halves.
struct factors {
  __m512 first, second;
};

/// Those of 32 numbers of type From that stand in their own order.
template <class From>
DSV3_FORCE_INLINE factors in_order_of(factors by) {
  if constexpr (std::is_same_v<From, float>) return by;
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  return {_mm512_permutex2var_ps(by.first, even, by.second),
          _mm512_permutex2var_ps(by.first, odd, by.second)};
}

/// The upper and the lower 16 bits of 32 floats.
struct split_floats {
  __m512i head, tail;
};

enum class arithmetic { multiply, divide };
template <arithmetic operation>
DSV3_FORCE_INLINE __m512 combine(__m512 a, __m512 b) {
  return operation == arithmetic::multiply ? _mm512_mul_ps(a, b) : _mm512_div_ps(a, b);
}

/// 32 floats, in the order of their factors.
struct floats {
  __m512 first, second;
};
template <arithmetic operation>
DSV3_FORCE_INLINE floats quotients(const bf16* x, factors by) {
  const __m512i both = _mm512_loadu_si512(x);
  const __m512 evens = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  const __m512 odds = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(-0x10000)));
  return {combine<operation>(evens, by.first), combine<operation>(odds, by.second)};
}
template <arithmetic operation>
DSV3_FORCE_INLINE floats quotients(const float* x, factors by) {
  return {combine<operation>(_mm512_loadu_ps(x), by.first),
          combine<operation>(_mm512_loadu_ps(x + 16), by.second)};
}

/// Of quotients of numbers of type From.
template <class From>
DSV3_FORCE_INLINE split_floats split(floats x) {
  const __m512i a = _mm512_castps_si512(x.first), b = _mm512_castps_si512(x.second);
  if constexpr (std::is_same_v<From, bf16>) {
    return {_mm512_mask_blend_epi16(odd_words, _mm512_srli_epi32(a, 16), b),
            _mm512_mask_blend_epi16(odd_words, a, _mm512_slli_epi32(b, 16))};
  } else {
    const __m512i tails = _mm512_add_epi16(
        _mm512_set1_epi32(0x00020000),
        _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                           _mm512_set1_epi32(0x00040004)));
    return {_mm512_permutex2var_epi16(a, _mm512_add_epi16(tails, words(1)), b),
            _mm512_permutex2var_epi16(a, tails, b)};
  }
}

// ---- rounding
// -----------------------------------------------------------------------------------------------------------

/// Codes, those of 8 bits in the upper bytes of words, and which of them may be wrong.
struct rounded {
  __m512i codes;
  __mmask32 doubtful;
};

/// `sums` are magnitudes in the units of 7 bits of mantissa from a format's smallest exponent on, with what
/// rounds them when the rest is cut off; the signs come from `head`.
template <class Element>
DSV3_FORCE_INLINE __m512i cut(__m512i sums, __m512i head) {
  using format = code_format<Element>;
  constexpr int dropped = 7 - format::mantissa_bits;
  const __m512i bounded = _mm512_min_epu16(sums, words((format::largest << dropped) + (1 << dropped) - 1));
  if constexpr (sizeof(Element) == 1)  // bounded | (head & 0x8000)
    return _mm512_ternarylogic_epi32(_mm512_slli_epi16(bounded, 8 - dropped), head, words(0x8000), 0xF8);
  else
    return _mm512_ternarylogic_epi32(_mm512_srli_epi16(bounded, dropped), _mm512_srli_epi16(head, 4),
                                     words(0x800), 0xF8);
}

/// Which magnitudes are below a smallest normal number, but not zero, or not finite.
DSV3_FORCE_INLINE __mmask32 unusual(__m512i magnitudes, __m512i smallest_normal) {
  return _mm512_mask_cmpgt_epu16_mask(_mm512_test_epi16_mask(magnitudes, magnitudes),
                                      _mm512_sub_epi16(magnitudes, smallest_normal),
                                      _mm512_sub_epi16(words(0x7F80 - 1), smallest_normal));
}

/// To nearest, ties to even; `sticky` is 1 in words that something follows.
template <class Element>
DSV3_FORCE_INLINE __m512i sums_to_even(__m512i steps, __m512i sticky) {
  constexpr int dropped = 7 - code_format<Element>::mantissa_bits;
  const __m512i last = _mm512_srli_epi16(steps, dropped), one = words(1);
  if constexpr (dropped == 1)  // the dropped bit is a half: up if it is not alone, or to even
    return _mm512_add_epi16(steps,
                            _mm512_ternarylogic_epi32(last, sticky, one, 0xA8));  // (last | sticky) & 1
  else
    return _mm512_add_epi16(_mm512_add_epi16(_mm512_or_si512(steps, sticky), words((1 << (dropped - 1)) - 1)),
                            _mm512_and_si512(last, one));
}

/// Of quotients that are known by products with a reciprocal, which are within 2.5 units in the last place of
/// the rounded quotient. Both have the same code, unless a tie of the format lies between them: such products
/// are doubtful, and unusual ones. Products with the reciprocal of a power of two are the quotients: those
/// are `exact`.
template <bool exact, class Element>
DSV3_FORCE_INLINE rounded round_quotients(split_floats x) {
  using format = code_format<Element>;
  constexpr int dropped = 7 - format::mantissa_bits, zero = (127 - format::bias) << 7;
  const __m512i magnitude = _mm512_and_si512(x.head, words(0x7FFF));
  const __m512i steps = _mm512_subs_epu16(magnitude, words(zero));
  __mmask32 doubtful = unusual(magnitude, words(zero + (1 << 7)));
  __m512i sums;
  if constexpr (exact) {
    sums = sums_to_even<Element>(steps, _mm512_min_epu16(x.tail, words(1)));
  } else {
    // What follows the format's last bit, to 16 bits; half a step is 0x8000. At least 4 units to either side.
    constexpr int beside = dropped == 1 ? 2 : 1;
    const __m512i rest = _mm512_shldi_epi16(x.head, x.tail, 16 - dropped);
    doubtful |=
        _mm512_cmple_epu16_mask(_mm512_sub_epi16(rest, words(0x8000 - beside)), words(2 * beside - 1));
    sums = _mm512_add_epi16(steps, words(1 << (dropped - 1)));  // no ties among the others
  }
  return {cut<Element>(sums, x.head), doubtful};
}

/// Of quotients themselves, those below the smallest normal number too: to these is added what leaves so many
/// bits of theirs as the format has. Doubtful is what is not finite.
template <class From, class Element>
DSV3_FORCE_INLINE rounded round_divided(floats x) {
  using format = code_format<Element>;
  constexpr int zero = (127 - format::bias) << 7;
  const split_floats normal = split<From>(x);
  const __m512i magnitude = _mm512_and_si512(normal.head, words(0x7FFF));
  const __m512i codes = round_quotients<true, Element>(normal).codes;
  const __m512 large =
      _mm512_castsi512_ps(_mm512_set1_epi32((127 + 1 - format::bias - format::mantissa_bits + 23) << 23));
  const __m512i small = split<From>({_mm512_add_ps(_mm512_abs_ps(x.first), large),
                                     _mm512_add_ps(_mm512_abs_ps(x.second), large)})
                            .tail;
  __m512i small_codes;
  if constexpr (sizeof(Element) == 1)
    small_codes = _mm512_ternarylogic_epi32(_mm512_slli_epi16(small, 8), normal.head, words(0x8000), 0xF8);
  else
    small_codes = _mm512_ternarylogic_epi32(small, _mm512_srli_epi16(normal.head, 4), words(0x800), 0xF8);
  return {
      _mm512_mask_blend_epi16(_mm512_cmplt_epu16_mask(magnitude, words(zero + (1 << 7))), codes, small_codes),
      _mm512_cmpge_epu16_mask(magnitude, words(0x7F80))};
}

/// Of bf16 over a power of two, which moves their exponents: `zero` is where the format's begin, among
/// theirs.
template <class Element>
DSV3_FORCE_INLINE rounded round_shifted(const bf16* x, __m512i zero) {
  const __m512i head = _mm512_loadu_si512(x), magnitude = _mm512_and_si512(head, words(0x7FFF));
  const __m512i sums = sums_to_even<Element>(_mm512_subs_epu16(magnitude, zero), _mm512_setzero_si512());
  return {cut<Element>(sums, head), unusual(magnitude, _mm512_add_epi16(zero, words(1 << 7)))};
}

}  // namespace dsv3::inline DSV3_ABI::cpu::avx512

#pragma GCC diagnostic pop

#endif
