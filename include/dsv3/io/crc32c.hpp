// SPDX-License-Identifier: MIT
// CRC-32C (Castagnoli): streaming, combinable; eight bytes per step by tables, or by the SSE4.2 instruction.
#pragma once

#include <dsv3/base/config.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

namespace dsv3::inline DSV3_ABI {

namespace detail {

inline constexpr std::uint32_t crc32c_polynomial = 0x82F63B78u;  // bit-reversed 0x1EDC6F41

/// table[k][b]: the remainder of byte b followed by k zero bytes.
inline constexpr auto crc32c_table = [] {
  std::array<std::array<std::uint32_t, 256>, 8> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) remainder = (remainder >> 1) ^ (remainder & 1 ? crc32c_polynomial : 0);
    table[0][byte] = remainder;
  }
  for (std::size_t k = 1; k < 8; ++k)
    for (std::size_t byte = 0; byte < 256; ++byte)
      table[k][byte] = (table[k - 1][byte] >> 8) ^ table[0][table[k - 1][byte] & 0xFF];
  return table;
}();

inline std::uint32_t crc32c_by_table(std::uint32_t state, const std::byte* data, std::size_t count) {
  const auto& table = crc32c_table;
  for (; count >= 8; data += 8, count -= 8) {
    std::uint64_t word;
    std::memcpy(&word, data, 8);
    word ^= state;
    state = 0;
    for (std::size_t byte = 0; byte < 8; ++byte) state ^= table[7 - byte][(word >> (8 * byte)) & 0xFF];
  }
  for (; count > 0; ++data, --count)
    state = (state >> 8) ^ table[0][(state ^ static_cast<std::uint32_t>(*data)) & 0xFF];
  return state;
}

#if defined(__SSE4_2__)
inline std::uint32_t crc32c_by_instruction(std::uint32_t state, const std::byte* data, std::size_t count) {
  std::uint64_t wide = state;
  for (; count >= 8; data += 8, count -= 8) {
    std::uint64_t word;
    std::memcpy(&word, data, 8);
    wide = _mm_crc32_u64(wide, word);
  }
  state = static_cast<std::uint32_t>(wide);
  for (; count > 0; ++data, --count) state = _mm_crc32_u8(state, static_cast<unsigned char>(*data));
  return state;
}
#endif

/// The product of two residues modulo the polynomial; bit 31 is x^0.
inline constexpr std::uint32_t crc32c_multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b >> 1) ^ (b & 1 ? crc32c_polynomial : 0);
  }
  return product;
}

}  // namespace detail

/// A running checksum.
///
///     crc32c sum;
///     sum.update(first), sum.update(second);
///     sum.value();                             // that of both, one after the other
class crc32c {
 public:
  crc32c& update(std::span<const std::byte> bytes) {
#if defined(__SSE4_2__)
    state_ = detail::crc32c_by_instruction(state_, bytes.data(), bytes.size());
#else
    state_ = detail::crc32c_by_table(state_, bytes.data(), bytes.size());
#endif
    return *this;
  }
  crc32c& update(std::string_view text) { return update(std::as_bytes(std::span(text))); }

  std::uint32_t value() const { return ~state_; }

 private:
  std::uint32_t state_ = ~0u;
};

inline std::uint32_t crc32c_of(std::span<const std::byte> bytes) { return crc32c{}.update(bytes).value(); }
inline std::uint32_t crc32c_of(std::string_view text) { return crc32c{}.update(text).value(); }

/// The checksum of A followed by B, from that of each and the length of B: pieces may be summed in any order.
inline std::uint32_t crc32c_join(std::uint32_t a, std::uint32_t b, std::uint64_t b_bytes) {
  std::uint32_t shift = 0x80000000u, power = 0x00800000u;  // x^0; x^8, one byte
  for (; b_bytes != 0; b_bytes >>= 1) {
    if (b_bytes & 1) shift = detail::crc32c_multiply(shift, power);
    power = detail::crc32c_multiply(power, power);
  }
  return detail::crc32c_multiply(shift, a) ^ b;
}

}  // namespace dsv3::inline DSV3_ABI
