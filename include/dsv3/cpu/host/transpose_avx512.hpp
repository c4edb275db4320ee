// SPDX-License-Identifier: MIT
// Bytes transposed in the registers of AVX-512 BW; empty for other processors.
#pragma once

#include <dsv3/base/index.hpp>

#include <cstdint>

#if DSV3_AVX512

// GCC 12 takes the undefined registers that its own intrinsics begin with for uninitialised variables.
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

namespace dsv3::inline DSV3_ABI::cpu::avx512 {

/// 16 rows of 64 bytes, 128 apart: to[4 · k + j] has in its lane l the 16 bytes of column 16 · l + 4 · k + j.
DSV3_FORCE_INLINE void gather_columns(const void* from, __m512i (&to)[16]) {
  const auto row = [&](int r) { return _mm512_load_si512(static_cast<const char*>(from) + 128 * r); };
  __m512i words[4][4];  // [k][q]   of columns 4 · k .. 4 · k + 3 of each lane, the bytes of rows 4 · q .. + 3
  DSV3_UNROLL
  for (int q = 0; q < 4; ++q) {
    const __m512i r0 = row(4 * q), r1 = row(4 * q + 1), r2 = row(4 * q + 2), r3 = row(4 * q + 3);
    const __m512i a = _mm512_unpacklo_epi8(r0, r1), b = _mm512_unpackhi_epi8(r0, r1);
    const __m512i c = _mm512_unpacklo_epi8(r2, r3), d = _mm512_unpackhi_epi8(r2, r3);
    words[0][q] = _mm512_unpacklo_epi16(a, c), words[1][q] = _mm512_unpackhi_epi16(a, c);
    words[2][q] = _mm512_unpacklo_epi16(b, d), words[3][q] = _mm512_unpackhi_epi16(b, d);
  }
  DSV3_UNROLL
  for (int k = 0; k < 4; ++k) {
    const __m512i* w = words[k];
    const __m512i a = _mm512_unpacklo_epi32(w[0], w[1]), b = _mm512_unpackhi_epi32(w[0], w[1]);
    const __m512i c = _mm512_unpacklo_epi32(w[2], w[3]), d = _mm512_unpackhi_epi32(w[2], w[3]);
    to[4 * k] = _mm512_unpacklo_epi64(a, c), to[4 * k + 1] = _mm512_unpackhi_epi64(a, c);
    to[4 * k + 2] = _mm512_unpacklo_epi64(b, d), to[4 * k + 3] = _mm512_unpackhi_epi64(b, d);
  }
}

/// to[c · stride + r] = from[128 · r + c] for r and c below 128; `from` stands on a cache line.
inline void transpose_bytes(const void* from, void* to, index_t stride) {
  // Whole lines of long rows go past the caches: they would be fetched first, and rows a power of two apart
  // would put each other out.
  const bool lines = reinterpret_cast<std::uintptr_t>(to) % 64 == 0 && stride % 64 == 0 && stride >= 4096;
  for (int half = 0; half < 128; half += 64)
    for (int rows = 0; rows < 128; rows += 64) {
      alignas(64) __m512i columns[4][16];  // of 16 rows each
      for (int g = 0; g < 4; ++g)
        gather_columns(static_cast<const char*>(from) + 128 * (rows + 16 * g) + half, columns[g]);
      for (int i = 0; i < 16; ++i) {
        const __m512i a = columns[0][i], b = columns[1][i], c = columns[2][i], d = columns[3][i];
        const __m512i ab = _mm512_shuffle_i64x2(a, b, 0x44), cd = _mm512_shuffle_i64x2(c, d, 0x44);
        const __m512i ef = _mm512_shuffle_i64x2(a, b, 0xEE), gh = _mm512_shuffle_i64x2(c, d, 0xEE);
        const auto store = [&](int lane, __m512i column) {
          char* place = static_cast<char*>(to) + (half + 16 * lane + i) * stride + rows;
          if (lines)
            _mm512_stream_si512(reinterpret_cast<__m512i*>(place), column);
          else
            _mm512_storeu_si512(place, column);
        };
        store(0, _mm512_shuffle_i64x2(ab, cd, 0x88)), store(1, _mm512_shuffle_i64x2(ab, cd, 0xDD));
        store(2, _mm512_shuffle_i64x2(ef, gh, 0x88)), store(3, _mm512_shuffle_i64x2(ef, gh, 0xDD));
      }
    }
  if (lines) _mm_sfence();
}

}  // namespace dsv3::inline DSV3_ABI::cpu::avx512

#pragma GCC diagnostic pop

#endif
