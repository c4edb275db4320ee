// SPDX-License-Identifier: MIT
// UTF-8: which bytes form a code point, and what to make of those that form none.
#pragma once

#include <dsv3/base/config.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace dsv3::inline DSV3_ABI {

/// What stands at a place of a text. `valid`: one code point. Otherwise `length` bytes that no code point
/// begins with: the longest start of a well-formed sequence there (Unicode, "maximal subpart"), at least one
/// byte. `cut`: the text ends before it could be told.
struct utf8_sequence {
  std::uint32_t code = 0;
  std::uint8_t length = 0;
  bool valid = false, cut = false;
};

/// The sequence at the start of `text`, which is not empty (Unicode, table 3-7).
inline utf8_sequence utf8_at(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {.code = lead, .length = 1, .valid = true};
  if (lead < 0xC2 || lead > 0xF4) return {.length = 1};
  const unsigned count = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte excludes overlong forms, surrogates and what lies above U+10FFFF.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  std::uint32_t code = lead & (0x7Fu >> count);
  for (unsigned i = 1; i < count; ++i) {
    if (i == text.size()) return {.length = static_cast<std::uint8_t>(i), .cut = true};
    const unsigned next = byte(i);
    if (next < (i == 1 ? low : 0x80u) || next > (i == 1 ? high : 0xBFu))
      return {.length = static_cast<std::uint8_t>(i)};
    code = code << 6 | (next & 0x3Fu);
  }
  return {.code = code, .length = static_cast<std::uint8_t>(count), .valid = true};
}

/// Bytes before the first that belongs to no code point; all of them where the text is UTF-8.
inline std::size_t utf8_valid_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    for (std::uint64_t eight = 0; at + 8 <= text.size(); at += 8) {
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080u) != 0) break;
    }
    if (at == text.size()) break;
    const utf8_sequence found = utf8_at(text.substr(at));
    if (!found.valid) return at;
    at += found.length;
  }
  return at;
}

/// Bytes at the end that may become a code point when more follow: 0 to 3.
inline std::size_t utf8_cut_suffix(std::string_view text) {
  for (std::size_t length = 1; length <= std::min<std::size_t>(3, text.size()); ++length) {
    const std::string_view suffix = text.substr(text.size() - length);
    if ((static_cast<unsigned char>(suffix[0]) & 0xC0) == 0x80) continue;  // inside a sequence
    const utf8_sequence found = utf8_at(suffix);
    return found.cut && found.length == length ? length : 0;
  }
  return 0;
}

/// Where the last code point of a text that is not empty begins; the last byte where it belongs to none.
inline std::size_t utf8_last(std::string_view text) {
  for (std::size_t length = 1; length <= std::min<std::size_t>(4, text.size()); ++length) {
    const utf8_sequence found = utf8_at(text.substr(text.size() - length));
    if (found.valid && found.length == length) return text.size() - length;
  }
  return text.size() - 1;
}

/// `text` with U+FFFD for every part that no code point begins with.
inline std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const utf8_sequence next = utf8_at(text);
    const auto length = static_cast<std::size_t>(next.length);
    if (next.valid)
      result += text.substr(0, length);
    else
      result += "\xEF\xBF\xBD";
    text.remove_prefix(length);
  }
  return result;
}

/// Appends a code point up to U+10FFFF.
inline void append_utf8(std::string& text, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { text += static_cast<char>(byte); };
  const auto follow = [&](unsigned shift) { put(0x80 | (code >> shift & 0x3F)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6), follow(0);
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), follow(6), follow(0);
  } else {
    put(0xF0 | code >> 18), follow(12), follow(6), follow(0);
  }
}

/// White_Space of Unicode, which is what \s means.
constexpr bool unicode_space(std::uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

}  // namespace dsv3::inline DSV3_ABI
