// SPDX-License-Identifier: MIT
// The alphabet of byte-level BPE: each of the 256 bytes as one printable code point, as GPT-2 chose them.
#pragma once

#include <dsv3/text/utf8.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dsv3::inline DSV3_ABI {

namespace detail {
constexpr bool prints_in_latin_1(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}
constexpr std::array<std::uint16_t, 256> letters_of_bytes() {
  std::array<std::uint16_t, 256> table{};
  std::uint16_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte)
    table[byte] = prints_in_latin_1(byte) ? static_cast<std::uint16_t>(byte) : next++;
  return table;
}
}  // namespace detail

/// Bytes that print in Latin-1 stand for themselves; the 68 others, in order, are U+0100 to U+0143.
struct byte_alphabet {
  static constexpr std::uint32_t letters = 0x144;

  /// The code point of each byte.
  static constexpr std::array<std::uint16_t, 256> code_points = detail::letters_of_bytes();

  /// The byte of each code point below `letters`, -1 for those that stand for none.
  static constexpr std::array<std::int16_t, letters> bytes = [] {
    std::array<std::int16_t, letters> table{};
    for (auto& entry : table) entry = -1;
    for (unsigned byte = 0; byte < 256; ++byte) table[code_points[byte]] = static_cast<std::int16_t>(byte);
    return table;
  }();

  /// " é" is written "ĠÃ©".
  static std::string spelled(std::string_view text) {
    std::string letters_of;
    for (const char byte : text) append_utf8(letters_of, code_points[static_cast<unsigned char>(byte)]);
    return letters_of;
  }

  /// The bytes that a spelling stands for; nothing where a code point stands for no byte.
  static std::optional<std::string> read(std::string_view spelling) {
    std::string text;
    while (!spelling.empty()) {
      const utf8_sequence found = utf8_at(spelling);
      if (!found.valid || found.code >= letters || bytes[found.code] < 0) return {};
      text += static_cast<char>(bytes[found.code]);
      spelling.remove_prefix(found.length);
    }
    return text;
  }
};

}  // namespace dsv3::inline DSV3_ABI
