// SPDX-License-Identifier: MIT
// Codes of twelve bits to gapless bytes and back on the CPU: e5m6x8 of whole rows, in loops that vectorise.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/number/e5m6.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

namespace dsv3::inline DSV3_ABI::cpu {

// Four codes are a word of 64 bits in memory; pushed together, the first on top, they are 48 bits. Two such
// numbers are the three words of e5m6x8.
static_assert(std::endian::native == std::endian::little);

#if defined(__AVX512VBMI__) && __has_builtin(__builtin_shuffle)
#define DSV3_TWELVE_BIT_VECTORS 1
#else
#define DSV3_TWELVE_BIT_VECTORS 0
#endif

#if DSV3_TWELVE_BIT_VECTORS
namespace detail {

typedef std::uint64_t eight_words __attribute__((vector_size(64)));
typedef std::uint8_t octets __attribute__((vector_size(64)));

// Where the bytes of 32 packed codes come from, among words of 48 bits that stand 64 apart; and the inverse.
struct byte_orders {
  alignas(64) std::uint8_t packed[64] = {}, unpacked[64] = {};
  constexpr byte_orders() {
    constexpr int from[12] = {2, 3, 4, 5, 12, 13, 0, 1, 8, 9, 10, 11};
    for (int i = 0; i < 48; ++i) packed[i] = static_cast<std::uint8_t>(i / 12 * 16 + from[i % 12]);
    for (int i = 0; i < 48; ++i) unpacked[packed[i]] = static_cast<std::uint8_t>(i);
  }
};
inline constexpr byte_orders orders;
inline octets order_of(const std::uint8_t (&bytes)[64]) {
  octets order;
  std::memcpy(&order, bytes, 64);
  return order;
}

inline constexpr std::uint64_t each_half = 0x00000FFF00000FFFu;

}  // namespace detail
#endif

/// `count` codes become ceil(count / 8) times twelve bytes; what is missing of the last eight is zero.
inline void pack_twelve_bits(const e5m6* codes, index_t count, std::uint8_t* bytes) {
  constexpr index_t most = 256;
  std::uint64_t fours[most / 4];
  index_t done = 0;
#if DSV3_TWELVE_BIT_VECTORS
  const detail::octets order = detail::order_of(detail::orders.packed);
  for (; done + 32 <= count; done += 32, bytes += 48) {
    detail::eight_words x;
    std::memcpy(&x, codes + done, 64);
    const detail::eight_words twos = (x & detail::each_half) << 12 | (x >> 16 & detail::each_half);
    const auto packed = __builtin_shuffle((detail::octets)(twos << 24 | twos >> 32), order);
    std::memcpy(bytes, &packed, 48);
  }
#endif
  for (index_t first = done; first < count; first += most) {
    const index_t live = std::min(most, count - first), eights = ceil_div(live, 8);
    if (live < 8 * eights) fours[2 * eights - 2] = fours[2 * eights - 1] = 0;
    std::memcpy(fours, codes + first, static_cast<std::size_t>(2 * live));
    DSV3_SIMD
    for (index_t i = 0; i < 2 * eights; ++i) {
      const std::uint64_t x = fours[i];
      fours[i] =
          (x & 0xFFFu) << 36 | (x >> 16 & 0xFFFu) << 24 | (x >> 32 & 0xFFFu) << 12 | (x >> 48 & 0xFFFu);
    }
    for (index_t i = 0; i < eights; ++i, bytes += 12) {
      const std::uint64_t upper = fours[2 * i], lower = fours[2 * i + 1];
      const std::uint64_t two = upper >> 16 | (upper << 16 | lower >> 32) << 32;
      const auto last = static_cast<std::uint32_t>(lower);
      std::memcpy(bytes, &two, 8), std::memcpy(bytes + 8, &last, 4);
    }
  }
}

inline void unpack_twelve_bits(const std::uint8_t* bytes, index_t count, e5m6* codes) {
  constexpr index_t most = 256;
  std::uint64_t fours[most / 4];
  index_t done = 0;
#if DSV3_TWELVE_BIT_VECTORS
  const detail::octets order = detail::order_of(detail::orders.unpacked);
  for (; done + 48 <= count; done += 32, bytes += 48) {  // 64 bytes are there to be read
    detail::octets packed;
    std::memcpy(&packed, bytes, 64);
    const auto fours_of = (detail::eight_words)__builtin_shuffle(packed, order) & 0xFFFFFFFFFFFFu;
    const detail::eight_words twos = fours_of >> 24 | (fours_of & 0xFFFFFFu) << 32;
    const detail::eight_words x = (twos >> 12 & detail::each_half) | (twos & detail::each_half) << 16;
    std::memcpy(static_cast<void*>(codes + done), &x, 64);
  }
#endif
  for (index_t first = done; first < count; first += most) {
    const index_t live = std::min(most, count - first), eights = ceil_div(live, 8);
    for (index_t i = 0; i < eights; ++i, bytes += 12) {
      std::uint64_t two;
      std::uint32_t last;
      std::memcpy(&two, bytes, 8), std::memcpy(&last, bytes + 8, 4);
      fours[2 * i] = (two & 0xFFFFFFFFu) << 16 | two >> 48;
      fours[2 * i + 1] = (two >> 32 & 0xFFFFu) << 32 | last;
    }
    DSV3_SIMD
    for (index_t i = 0; i < 2 * eights; ++i) {
      const std::uint64_t x = fours[i];
      fours[i] = x >> 36 | (x >> 24 & 0xFFFu) << 16 | (x >> 12 & 0xFFFu) << 32 | (x & 0xFFFu) << 48;
    }
    std::memcpy(static_cast<void*>(codes + first), fours, static_cast<std::size_t>(2 * live));
  }
}

}  // namespace dsv3::inline DSV3_ABI::cpu
