// SPDX-License-Identifier: MIT
// Numbers to narrow codes and back in registers, by the processor's conversions where it has them: eight of a
// row at a time. All ways give the bits of number/{fp8,e5m6}.hpp.
#pragma once

#include <dsv3/cuda/device/mma.cuh>
#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/number/bf16.hpp>
#include <dsv3/number/e5m6.hpp>
#include <dsv3/number/fp8.hpp>
#include <dsv3/number/scale.hpp>
#include <dsv3/number/traits.hpp>

#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI::cuda {

/// A tile of a row belongs to 16 neighbouring lanes of 8 numbers each.
inline constexpr int tile_lanes = 16, lane_numbers = 8;

/// The scale of a tile whose largest magnitude is `amax`.
template <class Element>
__device__ __forceinline__ float scale_of_tile(float amax, scale_kind kind) {
  return tile_scale(amax, static_cast<float>(number_traits<Element>::max), kind);
}

/// x / scale without a division per number: a product with the reciprocal, corrected by what it leaves over.
/// That is the rounded quotient but for its last bit now and then, and has the same code: one correction puts
/// it on the right side of every tie of up to 8 bits, for each of the 2^23 mantissas that a scale may have.
/// Quotients too small for that are zero in every format, with the sign of x.
struct divider {
  float scale, reciprocal;

  /// An infinite scale makes zeros of finite numbers, and NaN of others.
  __device__ __forceinline__ static divider of(float scale) {
    return {scale < __builtin_huge_valf() ? scale : 0.0f, 1.0f / scale};
  }
  /// That of another lane of a tile.
  template <int Lanes = tile_lanes>
  __device__ __forceinline__ divider of_lane(int lane) const {
    return {__shfl_sync(all_lanes, scale, lane, Lanes), __shfl_sync(all_lanes, reciprocal, lane, Lanes)};
  }

  __device__ __forceinline__ float operator()(float x) const {
    const float product = __fmul_rn(x, reciprocal);
    const float above = __fmaf_rn(product, scale, -x);  // of this sign, so that -0 stays -0
    return __fmaf_rn(above, -reciprocal, product);
  }
};

// ---- narrow numbers as halves -----------------------------------------------------------------------------

// A narrow number is a half of IEEE without its low bits, if it is multiplied by a power of two where its
// exponents are fewer.
template <class Element>
struct half_format;
template <>
struct half_format<fp8_e4m3> {
  static constexpr float smallest_normal = 0x1p-6f, to_half = 0x1p-8f, shift = 0x1.8p20f;
  static constexpr std::uint32_t largest = 0x3F00;
};
template <>
struct half_format<fp8_e5m2> {
  static constexpr float smallest_normal = 0x1p-14f, to_half = 1, shift = 0x1.8p21f;
  static constexpr std::uint32_t largest = 0x7B00;
};
template <>
struct half_format<e5m6> {
  static constexpr float smallest_normal = 0x1p-14f, to_half = 1, shift = 0x1.8p17f;
  static constexpr std::uint32_t largest = 0x7BF0;
};

/// x, finite or NaN, on the steps of a format: added to a multiple (`shift`) of its power of two, or of the
/// smallest normal number, it is rounded to them.
template <class Element>
__device__ __forceinline__ float on_steps(float x) {
  using format = half_format<Element>;
  const std::uint32_t bits = __float_as_uint(x);
  const float power = fmaxf(__uint_as_float(bits & 0x7F800000u), format::smallest_normal);
  const float rounded = __fmaf_rn(power, -format::shift, __fmaf_rn(power, format::shift, x));
  return __uint_as_float((__float_as_uint(rounded) & 0x7FFFFFFFu) | (bits & 0x80000000u));
}

/// Two numbers as the halves of their codes; beyond the largest number they become it, and NaN stays.
template <class Element>
__device__ __forceinline__ std::uint32_t narrow_halves(float low, float high) {
  using format = half_format<Element>;
  std::uint32_t halves;
  asm("{.reg .b32 t;\n"
      "cvt.rn.f16x2.f32 t, %1, %2;\n"
      "min.NaN.f16x2 t, t, %3;\n"
      "max.NaN.f16x2 %0, t, %4;}"
      : "=r"(halves)
      : "f"(on_steps<Element>(high) * format::to_half), "f"(on_steps<Element>(low) * format::to_half),
        "r"(format::largest * 0x10001u), "r"((format::largest | 0x8000u) * 0x10001u));
  return halves;
}

/// Two halves as floats.
__device__ __forceinline__ void widen_halves(std::uint32_t halves, float& low, float& high) {
  asm("{.reg .f16 a, b;\n mov.b32 {a, b}, %2;\n cvt.f32.f16 %0, a;\n cvt.f32.f16 %1, b;}"
      : "=f"(low), "=f"(high)
      : "r"(halves));
}

// ---- 8 bits -----------------------------------------------------------------------------------------------

/// The codes of two numbers, the first in the low byte.
template <class Element>
__device__ __forceinline__ std::uint32_t codes_of_two(float first, float second) {
  constexpr bool is_e4m3 = std::is_same_v<Element, fp8_e4m3>;
  static_assert(is_e4m3 || std::is_same_v<Element, fp8_e5m2>);
#if __CUDA_ARCH__ >= 890
  std::uint16_t codes;
  if constexpr (is_e4m3)
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
  else
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
  return codes;
#else
  const std::uint32_t halves = narrow_halves<Element>(first, second);
  if constexpr (is_e4m3)
    return __byte_perm((halves >> 7 & 0x7F007Fu) | (halves >> 8 & 0x800080u), 0, 0x4420);
  else
    return __byte_perm(halves, 0, 0x4431);
#endif
}

/// Codes of 8 bits as words, in the order of their addresses.
template <class Element, int Count>
__device__ __forceinline__ pack<std::uint32_t, Count / 4> codes_of(const float (&x)[Count]) {
  pack<std::uint32_t, Count / 4> words;
#pragma unroll
  for (int i = 0; i < Count / 4; ++i)
    words[i] = codes_of_two<Element>(x[4 * i], x[4 * i + 1]) |
               codes_of_two<Element>(x[4 * i + 2], x[4 * i + 3]) << 16;
  return words;
}

/// The values of two codes, the first in the low byte.
template <class Element>
__device__ __forceinline__ void values_of_two(std::uint32_t codes, float& first, float& second) {
  if constexpr (std::is_same_v<Element, fp8_e5m2>) {
    widen_halves(__byte_perm(codes, 0, 0x1404), first, second);
  } else {
    static_assert(std::is_same_v<Element, fp8_e4m3>);
#if __CUDA_ARCH__ >= 890
    std::uint32_t halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(codes)));
    widen_halves(halves, first, second);
#else
    const auto value = [](float half) {  // the code of NaN reads as 480
      const float finite = half / half_format<Element>::to_half;
      return fabsf(finite) == 480.0f ? __uint_as_float(0x7FC00000u) : finite;
    };
    const std::uint32_t pair = __byte_perm(codes, 0, 0x4140);
    widen_halves((pair & 0x7F007Fu) << 7 | (pair & 0x800080u) << 8, first, second);
    first = value(first), second = value(second);
#endif
  }
}

/// The values of eight codes.
template <class Element>
__device__ __forceinline__ void values_of(const pack<std::uint32_t, 2>& words, float (&x)[8]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) values_of_two<Element>(words[i / 2] >> (16 * (i % 2)), x[2 * i], x[2 * i + 1]);
}

// ---- 12 bits ----------------------------------------------------------------------------------------------

/// Eight codes in three words, as e5m6x8 has them.
__device__ __forceinline__ e5m6x8 pack_e5m6(const float (&x)[8]) {
  std::uint32_t fours[4];  // two codes each, 24 bits, the first on top
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t halves = narrow_halves<e5m6>(x[2 * i + 1], x[2 * i]);
    fours[i] = (halves >> 8 & 0xFFF000u) | (halves >> 4 & 0xFFFu);
  }
  // Bytes of two numbers, named by where they stand in them.
  return {{__byte_perm(fours[0], fours[1], 0x2106), __byte_perm(fours[1], fours[2], 0x1065),
           __byte_perm(fours[2], fours[3], 0x0654)}};
}

__device__ __forceinline__ void unpack_e5m6(const e5m6x8& codes, float (&x)[8]) {
  const std::uint32_t* words = codes.words;
  const std::uint32_t fours[4] = {words[0] >> 8, __byte_perm(words[0], words[1], 0x4076) & 0xFFFFFFu,
                                  __byte_perm(words[1], words[2], 0x4107) & 0xFFFFFFu, words[2] & 0xFFFFFFu};
#pragma unroll
  for (int i = 0; i < 4; ++i)  // the first code in the low half
    widen_halves((fours[i] >> 8 & 0xFFF0u) | (fours[i] << 20), x[2 * i], x[2 * i + 1]);
}

// ---- eight numbers of a lane ------------------------------------------------------------------------------

/// Eight numbers in registers; those of bf16 in pairs, as they are loaded.
template <class T>
struct eight {
  T value[lane_numbers];
  __device__ T operator[](int i) const { return value[i]; }
  __device__ void set(int i, T x) { value[i] = x; }
  __device__ void two(int i, float& first, float& second) const {
    first = static_cast<float>(value[2 * i]), second = static_cast<float>(value[2 * i + 1]);
  }
  __device__ void stay_packed() {}
};
template <>
struct alignas(16) eight<bf16> {
  std::uint32_t pairs[lane_numbers / 2];
  __device__ float operator[](int i) const {
    return __uint_as_float(i % 2 == 0 ? pairs[i / 2] << 16 : pairs[i / 2] & 0xFFFF0000u);
  }
  __device__ void two(int i, float& first, float& second) const {
    first = __uint_as_float(pairs[i] << 16), second = __uint_as_float(pairs[i] & 0xFFFF0000u);
  }
  __device__ void set(int i, bf16 x) {
    pairs[i / 2] = i % 2 == 0 ? x.bits : pairs[i / 2] | static_cast<std::uint32_t>(x.bits) << 16;
  }
  /// Compilers would keep the floats of before, which are twice as wide.
  __device__ __forceinline__ void stay_packed() {
#pragma unroll
    for (int i = 0; i < lane_numbers / 2; ++i) asm volatile("" : "+r"(pairs[i]));
  }
};

/// Rows of which lanes take eight numbers, kept as they are or as another type.
template <class T, class Kept = T>
struct wide_rows {
  static constexpr int at_once = sizeof(T) > 4 ? 4 : lane_numbers;  // up to 32 bytes
  using numbers = eight<Kept>;

  view<const T, 2> x;
  bool packs;

  explicit wide_rows(const view<const T, 2>& rows) : x(rows), packs(takes_packs<at_once>(rows)) {}

  /// Numbers [column, column + live) of Count rows from `row` on, of those before `end`; zero beyond.
  template <int Count>
  __device__ __forceinline__ void load(index_t row, index_t end, index_t column, index_t live,
                                       numbers (&to)[Count]) const {
    const T* from = x.data() + row * x.stride(0) + column;
#pragma unroll
    for (int i = 0; i < Count; ++i) to[i] = numbers{};
    if (packs && live >= lane_numbers) {
#pragma unroll
      for (int i = 0; i < Count; ++i)
        if (row + i < end) load_all(from + i * x.stride(0), to[i]);
    } else {
#pragma unroll
      for (int i = 0; i < Count; ++i)
        if (row + i < end) load_some(from + i * x.stride(0), live, to[i]);
    }
  }

 private:
  __device__ __forceinline__ static void load_all(const T* from, numbers& to) {
    if constexpr (std::is_same_v<Kept, bf16>) {
      const auto words = load_pack<4>(reinterpret_cast<const std::uint32_t*>(from));
#pragma unroll
      for (int j = 0; j < 4; ++j) to.pairs[j] = words[j];
    } else {
#pragma unroll
      for (int j = 0; j < lane_numbers; j += at_once) {
        const pack<T, at_once> part = load_pack<at_once>(from + j);
#pragma unroll
        for (int k = 0; k < at_once; ++k) to.set(j + k, static_cast<Kept>(part[k]));
      }
    }
  }
  __device__ static void load_some(const T* from, index_t live, numbers& to) {
#pragma unroll
    for (int j = 0; j < lane_numbers; ++j)
      if (j < live) to.set(j, static_cast<Kept>(from[j]));
  }
};

/// Doubles become floats before anything else.
template <class T>
using float_rows = wide_rows<T, std::conditional_t<std::is_same_v<T, double>, float, T>>;

/// Eight numbers rounded to bf16, as words.
template <class Numbers>
__device__ __forceinline__ pack<std::uint32_t, 4> bf16_words(const Numbers& x) {
  return {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
}
__device__ __forceinline__ pack<std::uint32_t, 4> bf16_words(const eight<bf16>& x) {
  return {x.pairs[0], x.pairs[1], x.pairs[2], x.pairs[3]};
}
__device__ __forceinline__ pack<std::uint32_t, 4> bf16_words(const eight<double>& x) {
  eight<bf16> rounded;
#pragma unroll
  for (int j = 0; j < lane_numbers; ++j) rounded.set(j, bf16(x[j]));
  return bf16_words(rounded);
}

/// Eight numbers rounded to T.
template <class T, class Numbers>
__device__ __forceinline__ eight<T> rounded(const Numbers& x) {
  eight<T> result;
  if constexpr (std::is_same_v<T, bf16>) {
    const auto words = bf16_words(x);
#pragma unroll
    for (int j = 0; j < lane_numbers / 2; ++j) result.pairs[j] = words[j];
  } else {
#pragma unroll
    for (int j = 0; j < lane_numbers; ++j) result.set(j, T(x[j]));
  }
  return result;
}

/// The first `live` of eight numbers, rounded to T, to wherever `to` points; all at once where it may.
template <class T, class Numbers>
__device__ __forceinline__ void store_numbers(T* to, const Numbers& x, index_t live, bool packs) {
  constexpr int at_once = sizeof(T) > 4 ? 4 : lane_numbers;
  if (packs && live >= lane_numbers) {
    if constexpr (std::is_same_v<T, bf16>) {
      store_pack(reinterpret_cast<std::uint32_t*>(to), bf16_words(x));
    } else {
#pragma unroll
      for (int j = 0; j < lane_numbers; j += at_once) {
        pack<T, at_once> part;
#pragma unroll
        for (int k = 0; k < at_once; ++k) part[k] = T(x[j + k]);
        store_pack(to + j, part);
      }
    }
  } else {
#pragma unroll
    for (int j = 0; j < lane_numbers; ++j)
      if (j < live) to[j] = T(x[j]);
  }
}

/// The first `live` bytes of some words to wherever `to` points.
template <int Words>
__device__ __forceinline__ void store_bytes(void* to, const pack<std::uint32_t, Words>& words, index_t live,
                                            bool packs) {
  if (packs && live >= 4 * Words) {
    store_pack(static_cast<std::uint32_t*>(to), words);
  } else {
#pragma unroll
    for (int i = 0; i < 4 * Words; ++i)
      if (i < live)
        static_cast<std::uint8_t*>(to)[i] = static_cast<std::uint8_t>(words[i / 4] >> 8 * (i % 4));
  }
}
/// The same the other way; zeros beyond.
template <int Words>
__device__ __forceinline__ pack<std::uint32_t, Words> load_bytes(const void* from, index_t live, bool packs) {
  if (packs && live >= 4 * Words) return load_pack<Words>(static_cast<const std::uint32_t*>(from));
  pack<std::uint32_t, Words> words = {};
#pragma unroll
  for (int i = 0; i < 4 * Words; ++i)
    if (i < live)
      words[i / 4] |= static_cast<std::uint32_t>(static_cast<const std::uint8_t*>(from)[i]) << 8 * (i % 4);
  return words;
}

}  // namespace dsv3::inline DSV3_ABI::cuda
