// SPDX-License-Identifier: MIT
// Rows to narrow codes on processors with AVX-512 BW and VBMI2, 32 numbers at a time; empty for others.
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

// ---- scales
// -----------------------------------------------------------------------------------------------------------

/// The factors of 32 numbers from i on.
DSV3_FORCE_INLINE factors factors_at(one_scale by, index_t) {
  return {_mm512_set1_ps(by.by), _mm512_set1_ps(by.by)};
}
template <index_t capacity, class From>
DSV3_FORCE_INLINE factors factors_at(const scale_row<capacity, From>& by, index_t i) {
  return {_mm512_loadu_ps(by.reciprocals + i), _mm512_loadu_ps(by.reciprocals + i + 16)};
}

/// The scales themselves.
template <class From>
DSV3_FORCE_INLINE factors divisors_at(one_scale by, index_t) {
  return {_mm512_set1_ps(by.scale), _mm512_set1_ps(by.scale)};
}
template <class From, index_t capacity>
DSV3_FORCE_INLINE factors divisors_at(const scale_row<capacity, From>& by, index_t i) {
  return in_order_of<From>({_mm512_loadu_ps(by.scales + i), _mm512_loadu_ps(by.scales + i + 16)});
}

/// Where the exponents of a format begin among those of 32 bf16 over powers of two.
template <class Element>
DSV3_FORCE_INLINE __m512i zeros_at(one_scale by, index_t) {
  constexpr std::uint32_t bias = static_cast<std::uint32_t>(code_format<Element>::bias) << 7;
  return words(static_cast<int>((std::bit_cast<std::uint32_t>(by.scale) >> 16) - bias));
}
template <class Element, index_t capacity>
DSV3_FORCE_INLINE __m512i zeros_at(const scale_row<capacity, bf16>& by, index_t i) {
  return _mm512_sub_epi16(_mm512_loadu_si512(by.uppers + i), words(code_format<Element>::bias << 7));
}

// ---- rows
// -----------------------------------------------------------------------------------------------------------

/// The upper bytes of 32 words, and where they come from.
constexpr auto upper_bytes = [] {
  std::array<std::uint8_t, 64> order{};
  for (unsigned i = 0; i < 32; ++i) order[i] = static_cast<std::uint8_t>(2 * i + 1);
  return order;
}();
template <class Byte>
DSV3_FORCE_INLINE void store_codes(__m512i codes, Byte* y) {
  const __m512i bytes = _mm512_permutexvar_epi8(_mm512_loadu_si512(upper_bytes.data()), codes);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_castsi512_si256(bytes));
}
DSV3_FORCE_INLINE void store_codes(__m512i codes, e5m6* y) { _mm512_storeu_si512(y, codes); }

/// 32 codes; which of them may be wrong.
template <bool exact, class From, class Element, class Scales>
DSV3_FORCE_INLINE __mmask32 narrow_group(const From* x, Element* y, const Scales& by, index_t i) {
  rounded result;
  if constexpr (exact && std::is_same_v<From, bf16>)
    result = round_shifted<Element>(x + i, zeros_at<Element>(by, i));
  else
    result = round_quotients<exact, Element>(
        split<From>(quotients<arithmetic::multiply>(x + i, factors_at(by, i))));
  store_codes(result.codes, y + i);
  return result.doubtful;
}

/// The same 32 by division; `each(i)` does them one by one where not all are finite.
template <class From, class Element, class Scales, class Each>
void divide_group(const From* x, Element* y, const Scales& by, index_t i, const Each& each) {
  const rounded result =
      round_divided<From, Element>(quotients<arithmetic::divide>(x + i, divisors_at<From>(by, i)));
  store_codes(result.codes, y + i);
  if (result.doubtful != 0) each(i);
}

/// As many of y = Element(x / scale) as groups of 32 have; returns how many. What products cannot tell is
/// done afterwards, because in the loop it would take the registers that hold constants.
template <bool exact, class From, class Element, class Scales, class Each>
DSV3_FORCE_INLINE index_t narrow(const From* x, Element* y, index_t count, const Scales& by, Each&& each) {
  index_t i = 0;
  while (i + 32 <= count) {
    const index_t begin = i;
    std::uint64_t again = 0;  // one bit for each group
    for (std::uint64_t group = 1; group != 0 && i + 32 <= count; group <<= 1, i += 32)
      if (narrow_group<exact>(x, y, by, i) != 0) again |= group;
    for (; again != 0; again &= again - 1) divide_group(x, y, by, begin + 32 * __builtin_ctzll(again), each);
  }
  return i;
}
/// The same of whole tiles of 128.
template <bool exact, class From, class Element, index_t capacity, class Each>
DSV3_FORCE_INLINE void narrow_tiles(const From* x, Element* y, index_t tiles, const scale_row<capacity>& by,
                                    Each&& each) {
  for (index_t begin = 0; begin < tiles; begin += 16) {
    const index_t end = begin + 16 < tiles ? begin + 16 : tiles;
    std::uint64_t again = 0;  // one bit for each group
    for (index_t tile = begin; tile < end; ++tile) {
      const one_scale scale = by.tile(tile);
      std::uint64_t groups = 0;
      DSV3_UNROLL
      for (int group = 0; group < 4; ++group)
        groups |= std::uint64_t{narrow_group<exact>(x, y, scale, 128 * tile + 32 * group) != 0} << group;
      again |= groups << (4 * (tile - begin));
    }
    for (; again != 0; again &= again - 1) {
      const index_t group = 4 * begin + __builtin_ctzll(again);
      divide_group(x, y, by.tile(group / 4), 32 * group, each);
    }
  }
}

template <class From, class Element>
inline constexpr bool takes = (std::is_same_v<From, float> || std::is_same_v<From, bf16>)&&(
    std::is_same_v<Element, fp8_e4m3> || std::is_same_v<Element, fp8_e5m2> || std::is_same_v<Element, e5m6>);

}  // namespace dsv3::inline DSV3_ABI::cpu::avx512

#pragma GCC diagnostic pop

#endif
