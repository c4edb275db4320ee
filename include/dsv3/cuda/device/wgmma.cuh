// SPDX-License-Identifier: MIT
// wgmma: products of 64 by N by a warpgroup, asynchronously, with float sums in its registers.
//
// A batch is: fence_sums(), any number of multiply_*() and commit_products(); the sums may be touched again,
// and shared operands written again, after wait_products().
#pragma once

#include <dsv3/cuda/device/shared.cuh>
#include <dsv3/number/bf16.hpp>
#include <dsv3/number/fp8.hpp>

#include <type_traits>

namespace dsv3::inline DSV3_ABI::cuda {

// ---- who owns what ----------------------------------------------------------------------------------------
//
// Of the 64 x N sums, thread t of the warpgroup holds sums[i] at row sum_row(t, i), column sum_column(t, i):
// two rows, eight apart, and pairs of neighbouring columns. The four threads of a quad share their rows.
// An A operand of 16 columns in registers is laid out alike: a[0] holds columns 2 * (t % 4) and the next of
// the upper row, a[1] of the lower row, a[2] and a[3] the same eight columns on. So the rounded sums
// 8 * k .. 8 * k + 7, in pairs, are the A operand of columns 16 * k .. 16 * k + 15.

DSV3_HOST_DEVICE constexpr int sum_row(int thread, int i) {
  return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
}
DSV3_HOST_DEVICE constexpr int sum_column(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

// ---- operands in shared memory ----------------------------------------------------------------------------
//
// Under the 128-byte swizzle an operand is cut into panels of 128-byte rows, each panel at a multiple of 1024
// bytes, as the copy engine lays out boxes 128 bytes wide.
//   major::k    rows are those of A (or columns of B), 128 bytes along k: 64 bf16, 128 of 8 bits.
//   major::mn   rows are along k, 64 bf16 of A's rows (or B's columns); 8 bits cannot.

enum class major { k, mn };

/// The description of an operand at `tile`; `panel_bytes` lie between neighbouring panels along m or n and
/// matter for major::mn only. For major::k a panel is one step along k, so that the next is another
/// description; its rows are in groups of eight, 1024 bytes each.
template <major Major = major::k>
DSV3_HOST_DEVICE constexpr std::uint64_t operand_at(std::uint32_t tile, std::uint32_t panel_bytes = 0) {
  const std::uint64_t leading = Major == major::k ? 1 : panel_bytes >> 4;
  return (tile & 0x3FFFF) >> 4 | leading << 16 | std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}
/// `bytes` further on. Along k: 32 bytes a step in major::k (16 bf16 or 32 of 8 bits, at most four steps in a
/// panel), 2048 bytes in major::mn (16 rows). 64 rows of major::k: 8192.
DSV3_HOST_DEVICE constexpr std::uint64_t operand_after(std::uint64_t operand, std::uint32_t bytes) {
  return operand + (bytes >> 4);
}

#if DSV3_SM90A

// ---- order ------------------------------------------------------------------------------------------------

/// Keeps the compiler from moving work on the sums across products under way.
template <int Count>
__device__ __forceinline__ void pin(float (&sums)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}
/// Before the first product after sums or A registers were touched otherwise.
__device__ __forceinline__ void fence_sums() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Closes a group of products.
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until at most `Groups` are under way.
template <int Groups = 0>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Groups) : "memory");
}

/// Four 8 x 8 matrices of 16-bit elements from registers to shared memory: lane 8 i + r gives the address (a
/// multiple of 16) of row r of matrix i, whose pair of row lane / 4 and columns 2 * (lane % 4), and the next,
/// it holds in part[i]. Rounded sums 4 j .. 4 j + 7 are the quarters of 16 x 16: upper and lower rows of the
/// first eight columns, then of the others.
__device__ __forceinline__ void store_matrices(std::uint32_t address, const std::uint32_t (&part)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(part[0]), "r"(part[1]), "r"(part[2]), "r"(part[3])
               : "memory");
}

// ---- products ---------------------------------------------------------------------------------------------

namespace detail {
template <int N>
struct wgmma;  // specialised below for the widths in use
}

/// sums = A · Bᵀ, or += where `add`: A is 64 x 16, B is N x 16 bf16, both in shared memory.
template <int N, major A = major::k, major B = major::k>
__device__ __forceinline__ void multiply_bf16(float (&sums)[N / 2], std::uint64_t a, std::uint64_t b,
                                              bool add) {
  detail::wgmma<N>::template bf16<A == major::mn, B == major::mn>(sums, a, b, add);
}
/// The same with A in registers.
template <int N, major B = major::k>
__device__ __forceinline__ void multiply_bf16(float (&sums)[N / 2], const std::uint32_t (&a)[4],
                                              std::uint64_t b, bool add) {
  detail::wgmma<N>::template bf16_registers<B == major::mn>(sums, a, b, add);
}
/// A is 64 x 32, B is N x 32 of 8 bits, both major::k in shared memory.
template <int N, class A, class B>
__device__ __forceinline__ void multiply_fp8(float (&sums)[N / 2], std::uint64_t a, std::uint64_t b,
                                             bool add) {
  constexpr bool a_wide = std::is_same_v<A, fp8_e5m2>, b_wide = std::is_same_v<B, fp8_e5m2>;
  static_assert((a_wide || std::is_same_v<A, fp8_e4m3>)&&(b_wide || std::is_same_v<B, fp8_e4m3>));
  if constexpr (a_wide && b_wide)
    detail::wgmma<N>::e5m2_e5m2(sums, a, b, add);
  else if constexpr (a_wide)
    detail::wgmma<N>::e5m2_e4m3(sums, a, b, add);
  else if constexpr (b_wide)
    detail::wgmma<N>::e4m3_e5m2(sums, a, b, add);
  else
    detail::wgmma<N>::e4m3_e4m3(sums, a, b, add);
}

// ---- instructions -----------------------------------------------------------------------------------------

namespace detail {

// The text of an instruction names its N / 2 sums and then the other operands, numbered from N / 2 on; the
// preprocessor counts for us. Sums come in groups of four.

#define DSV3_NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7"
#define DSV3_SUMS_16 DSV3_SUMS(0), DSV3_SUMS(4)
#define DSV3_NAMES_24 DSV3_NAMES_16 ",%8,%9,%10,%11"
#define DSV3_SUMS_24 DSV3_SUMS_16, DSV3_SUMS(8)
#define DSV3_NAMES_32 DSV3_NAMES_24 ",%12,%13,%14,%15"
#define DSV3_SUMS_32 DSV3_SUMS_24, DSV3_SUMS(12)
#define DSV3_NAMES_48 DSV3_NAMES_32 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define DSV3_SUMS_48 DSV3_SUMS_32, DSV3_SUMS(16), DSV3_SUMS(20)
#define DSV3_NAMES_64 DSV3_NAMES_48 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define DSV3_SUMS_64 DSV3_SUMS_48, DSV3_SUMS(24), DSV3_SUMS(28)
#define DSV3_NAMES_80 DSV3_NAMES_64 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define DSV3_SUMS_80 DSV3_SUMS_64, DSV3_SUMS(32), DSV3_SUMS(36)
#define DSV3_NAMES_96 DSV3_NAMES_80 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define DSV3_SUMS_96 DSV3_SUMS_80, DSV3_SUMS(40), DSV3_SUMS(44)
#define DSV3_NAMES_112 DSV3_NAMES_96 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define DSV3_SUMS_112 DSV3_SUMS_96, DSV3_SUMS(48), DSV3_SUMS(52)
#define DSV3_NAMES_128 DSV3_NAMES_112 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define DSV3_SUMS_128 DSV3_SUMS_112, DSV3_SUMS(56), DSV3_SUMS(60)
#define DSV3_NAMES_144 DSV3_NAMES_128 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define DSV3_SUMS_144 DSV3_SUMS_128, DSV3_SUMS(64), DSV3_SUMS(68)
#define DSV3_NAMES_152 DSV3_NAMES_144 ",%72,%73,%74,%75"
#define DSV3_SUMS_152 DSV3_SUMS_144, DSV3_SUMS(72)
#define DSV3_NAMES_160 DSV3_NAMES_152 ",%76,%77,%78,%79"
#define DSV3_SUMS_160 DSV3_SUMS_152, DSV3_SUMS(76)
#define DSV3_NAMES_176 DSV3_NAMES_160 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define DSV3_SUMS_176 DSV3_SUMS_160, DSV3_SUMS(80), DSV3_SUMS(84)
#define DSV3_NAMES_192 DSV3_NAMES_176 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define DSV3_SUMS_192 DSV3_SUMS_176, DSV3_SUMS(88), DSV3_SUMS(92)
#define DSV3_NAMES_208 DSV3_NAMES_192 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define DSV3_SUMS_208 DSV3_SUMS_192, DSV3_SUMS(96), DSV3_SUMS(100)
#define DSV3_NAMES_224 DSV3_NAMES_208 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define DSV3_SUMS_224 DSV3_SUMS_208, DSV3_SUMS(104), DSV3_SUMS(108)
#define DSV3_NAMES_240 DSV3_NAMES_224 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define DSV3_SUMS_240 DSV3_SUMS_224, DSV3_SUMS(112), DSV3_SUMS(116)
#define DSV3_NAMES_256 DSV3_NAMES_240 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define DSV3_SUMS_256 DSV3_SUMS_240, DSV3_SUMS(120), DSV3_SUMS(124)
#define DSV3_SUMS(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])

// P4 and the like are the operands after the sums.
#define DSV3_FP8(N, P0, P1, P2, A, B)                                                                \
  static __device__ __forceinline__ void A##_##B(float(&d)[N / 2], std::uint64_t a, std::uint64_t b, \
                                                 bool add) {                                         \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #P2                                              \
                 ", 0;\n"                                                                            \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32." #A "." #B " {" DSV3_NAMES_##N     \
                 "},"                                                                                \
                 " %" #P0 ", %" #P1 ", p, 1, 1; }"                                                   \
                 : DSV3_SUMS_##N                                                                     \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                      \
  }
#define DSV3_WGMMA(N, P0, P1, P2, P3, P4, P5, P6)                                                         \
  template <>                                                                                             \
  struct wgmma<N> {                                                                                       \
    template <int A, int B>                                                                               \
    static __device__ __forceinline__ void bf16(float (&d)[N / 2], std::uint64_t a, std::uint64_t b,      \
                                                bool add) {                                               \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #P2                                                 \
                   ", 0;\n"                                                                               \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" DSV3_NAMES_##N            \
                   "},"                                                                                   \
                   " %" #P0 ", %" #P1 ", p, 1, 1, %" #P3 ", %" #P4 "; }"                                  \
                   : DSV3_SUMS_##N                                                                        \
                   : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(A), "n"(B));                         \
    }                                                                                                     \
    template <int B>                                                                                      \
    static __device__ __forceinline__ void bf16_registers(float (&d)[N / 2], const std::uint32_t (&a)[4], \
                                                          std::uint64_t b, bool add) {                    \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #P5                                                 \
                   ", 0;\n"                                                                               \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" DSV3_NAMES_##N            \
                   "},"                                                                                   \
                   " {%" #P0 ", %" #P1 ", %" #P2 ", %" #P3 "}, %" #P4 ", p, 1, 1, %" #P6 "; }"            \
                   : DSV3_SUMS_##N                                                                        \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),      \
                     "n"(B));                                                                             \
    }                                                                                                     \
    DSV3_FP8(N, P0, P1, P2, e4m3, e4m3)                                                                   \
    DSV3_FP8(N, P0, P1, P2, e4m3, e5m2)                                                                   \
    DSV3_FP8(N, P0, P1, P2, e5m2, e4m3)                                                                   \
    DSV3_FP8(N, P0, P1, P2, e5m2, e5m2)                                                                   \
  };

DSV3_WGMMA(16, 8, 9, 10, 11, 12, 13, 14)
DSV3_WGMMA(24, 12, 13, 14, 15, 16, 17, 18)
DSV3_WGMMA(32, 16, 17, 18, 19, 20, 21, 22)
DSV3_WGMMA(48, 24, 25, 26, 27, 28, 29, 30)
DSV3_WGMMA(64, 32, 33, 34, 35, 36, 37, 38)
DSV3_WGMMA(80, 40, 41, 42, 43, 44, 45, 46)
DSV3_WGMMA(96, 48, 49, 50, 51, 52, 53, 54)
DSV3_WGMMA(112, 56, 57, 58, 59, 60, 61, 62)
DSV3_WGMMA(128, 64, 65, 66, 67, 68, 69, 70)
DSV3_WGMMA(144, 72, 73, 74, 75, 76, 77, 78)
DSV3_WGMMA(152, 76, 77, 78, 79, 80, 81, 82)
DSV3_WGMMA(160, 80, 81, 82, 83, 84, 85, 86)
DSV3_WGMMA(176, 88, 89, 90, 91, 92, 93, 94)
DSV3_WGMMA(192, 96, 97, 98, 99, 100, 101, 102)
DSV3_WGMMA(208, 104, 105, 106, 107, 108, 109, 110)
DSV3_WGMMA(224, 112, 113, 114, 115, 116, 117, 118)
DSV3_WGMMA(240, 120, 121, 122, 123, 124, 125, 126)
DSV3_WGMMA(256, 128, 129, 130, 131, 132, 133, 134)

#undef DSV3_WGMMA
#undef DSV3_FP8
#undef DSV3_SUMS
#undef DSV3_NAMES_16
#undef DSV3_SUMS_16
#undef DSV3_NAMES_24
#undef DSV3_SUMS_24
#undef DSV3_NAMES_32
#undef DSV3_SUMS_32
#undef DSV3_NAMES_48
#undef DSV3_SUMS_48
#undef DSV3_NAMES_64
#undef DSV3_SUMS_64
#undef DSV3_NAMES_80
#undef DSV3_SUMS_80
#undef DSV3_NAMES_96
#undef DSV3_SUMS_96
#undef DSV3_NAMES_112
#undef DSV3_SUMS_112
#undef DSV3_NAMES_128
#undef DSV3_SUMS_128
#undef DSV3_NAMES_144
#undef DSV3_SUMS_144
#undef DSV3_NAMES_152
#undef DSV3_SUMS_152
#undef DSV3_NAMES_160
#undef DSV3_SUMS_160
#undef DSV3_NAMES_176
#undef DSV3_SUMS_176
#undef DSV3_NAMES_192
#undef DSV3_SUMS_192
#undef DSV3_NAMES_208
#undef DSV3_SUMS_208
#undef DSV3_NAMES_224
#undef DSV3_SUMS_224
#undef DSV3_NAMES_240
#undef DSV3_SUMS_240
#undef DSV3_NAMES_256
#undef DSV3_SUMS_256

}  // namespace detail

#endif

}  // namespace dsv3::inline DSV3_ABI::cuda
