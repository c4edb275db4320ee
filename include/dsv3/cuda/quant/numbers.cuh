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

template <class Element>
inline constexpr bool is_fp8 = std::is_same_v<Element, fp8_e4m3> || std::is_same_v<Element, fp8_e5m2>;

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
  __device__ __forceinline__ divider of_lane(int lane) const {
    return {__shfl_sync(all_lanes, scale, lane, tile_lanes),
            __shfl_sync(all_lanes, reciprocal, lane, tile_lanes)};
  }

  __device__ __forceinline__ float operator()(float x) const {
    const float product = __fmul_rn(x, reciprocal);
    const float above = __fmaf_rn(product, scale, -x);  // of this sign, so that -0 stays -0
    return __fmaf_rn(above, -reciprocal, product);
  }
};

// ---- 8 bits
// -----------------------------------------------------------------------------------------------------------

/// The codes of two numbers, the first in the low byte.
template <class Element>
__device__ __forceinline__ std::uint32_t codes_of_two(float first, float second) {
  static_assert(is_fp8<Element>);
#if __CUDA_ARCH__ >= 890
  std::uint16_t codes;
  if constexpr (std::is_same_v<Element, fp8_e4m3>)
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
  else
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
  return codes;
#else
  return Element(first).bits | static_cast<std::uint32_t>(Element(second).bits) << 8;
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

/// Two halves of IEEE as floats, the low one first.
__device__ __forceinline__ void widen_halves(std::uint32_t halves, float& first, float& second) {
  asm("{.reg .f16 a, b;\n mov.b32 {a, b}, %2;\n cvt.f32.f16 %0, a;\n cvt.f32.f16 %1, b;}"
      : "=f"(first), "=f"(second)
      : "r"(halves));
}

/// The values of eight codes.
template <class Element>
__device__ __forceinline__ void values_of(const pack<std::uint32_t, 2>& words, float (&x)[8]) {
  static_assert(is_fp8<Element>);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t two = words[i / 2] >> (16 * (i % 2));
    if constexpr (std::is_same_v<Element, fp8_e5m2>) {  // the upper byte of a half
      widen_halves((two & 0xFFu) << 8 | (two & 0xFF00u) << 16, x[2 * i], x[2 * i + 1]);
    } else {
#if __CUDA_ARCH__ >= 890
      std::uint32_t halves;
      asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(two)));
      widen_halves(halves, x[2 * i], x[2 * i + 1]);
#else
      x[2 * i] = Element::from_bits(static_cast<std::uint8_t>(two));
      x[2 * i + 1] = Element::from_bits(static_cast<std::uint8_t>(two >> 8));
#endif
    }
  }
}

// ---- 12 bits
// ----------------------------------------------------------------------------------------------------------

/// E5M6 is a half of IEEE without its four low bits. A finite x, or NaN, on the steps of E5M6, as a float:
/// added to 1.5 · 2^17 times its power of two, or the smallest normal number's, it is rounded to them.
__device__ __forceinline__ float on_steps_of_e5m6(float x) {
  const std::uint32_t bits = __float_as_uint(x);
  const float power = fmaxf(__uint_as_float(bits & 0x7F800000u), 0x1p-14f);
  const float rounded = __fmaf_rn(power, -0x1.8p17f, __fmaf_rn(power, 0x1.8p17f, x));
  return __uint_as_float((__float_as_uint(rounded) & 0x7FFFFFFFu) | (bits & 0x80000000u));
}

/// Eight codes in three words, as e5m6x8 has them.
__device__ __forceinline__ e5m6x8 pack_e5m6(const float (&x)[8]) {
  std::uint32_t fours[4];  // two codes each, 24 bits, the first on top
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    std::uint32_t halves;
    asm("{.reg .b32 t;\n"
        "cvt.rn.f16x2.f32 t, %1, %2;\n"
        "min.NaN.f16x2 t, t, %3;\n"
        "max.NaN.f16x2 %0, t, %4;}"
        : "=r"(halves)
        : "f"(on_steps_of_e5m6(x[2 * i])), "f"(on_steps_of_e5m6(x[2 * i + 1])), "r"(0x7BF07BF0u),
          "r"(0xFBF0FBF0u));  // what is beyond the largest number, 65024, becomes it; NaN stays
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

// ---- eight numbers of a lane
// -----------------------------------------------------------------------------------------------------------

/// Eight numbers in registers; those of bf16 in pairs, as they are loaded.
template <class T>
struct eight {
  T value[lane_numbers];
  __device__ T operator[](int i) const { return value[i]; }
  __device__ void set(int i, T x) { value[i] = x; }
  __device__ void stay_packed() {}
};
template <>
struct eight<bf16> {
  std::uint32_t pairs[lane_numbers / 2];
  __device__ float operator[](int i) const {
    return __uint_as_float(i % 2 == 0 ? pairs[i / 2] << 16 : pairs[i / 2] & 0xFFFF0000u);
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
__device__ __forceinline__ pack<std::uint32_t, 4> bf16_words(const eight<float>& x) {
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
