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

/// `count` codes become ceil(count / 8) times twelve bytes; what is missing of the last eight is zero.
inline void pack_twelve_bits(const e5m6* codes, index_t count, std::uint8_t* bytes) {
  constexpr index_t most = 256;
  std::uint64_t fours[most / 4];
  for (index_t first = 0; first < count; first += most) {
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
  for (index_t first = 0; first < count; first += most) {
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
