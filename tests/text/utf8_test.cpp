// SPDX-License-Identifier: MIT
#include <dsv3/text/byte_alphabet.hpp>
#include <dsv3/text/utf8.hpp>

#include <doctest/doctest.h>

#include <set>
#include <string>

using namespace dsv3;

TEST_CASE("utf8: every code point is written and read back") {
  std::string all;
  for (std::uint32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(text, code);
    const utf8_sequence found = utf8_at(text);
    if (!found.valid || found.code != code || found.length != text.size()) FAIL("code point " << code);
    if (utf8_last("x" + text) != 1) FAIL("last of " << code);
    all += text;
  }
  CHECK(utf8_valid_prefix(all) == all.size());
  CHECK(utf8_valid_prefix(all + '\xFF') == all.size());
}

TEST_CASE("utf8: what is no code point is taken in maximal parts") {
  const auto invalid = [](std::string_view text) {
    const utf8_sequence found = utf8_at(text);
    CHECK(!found.valid);
    return std::size_t{found.length};
  };
  CHECK(invalid("\x80") == 1);
  CHECK(invalid("\xC0\xAF") == 1);          // overlong
  CHECK(invalid("\xE0\x80\xAF") == 1);      // overlong
  CHECK(invalid("\xED\xA0\x80") == 1);      // surrogate
  CHECK(invalid("\xF4\x90\x80\x80") == 1);  // above U+10FFFF
  CHECK(invalid("\xF5") == 1);
  CHECK(invalid("\xE1\x80"
                "x") == 2);
  CHECK(invalid("\xF1\x80\x80"
                "x") == 3);
  CHECK(invalid("\xF1\x80\xC0") == 2);
  CHECK(!utf8_at("\xE1\x80"
                 "x")
             .cut);
  CHECK(utf8_at("\xE1\x80").cut);
  CHECK(utf8_valid_prefix("abcdefgh\xC3\xA9xyz\xC3(") == 13);
  CHECK(utf8_valid_prefix("") == 0);
  CHECK(utf8_last("ab\x80") == 2);
}

TEST_CASE("utf8: the end that may become a code point") {
  CHECK(utf8_cut_suffix("") == 0);
  CHECK(utf8_cut_suffix("abc") == 0);
  CHECK(utf8_cut_suffix("\xC3") == 1);
  CHECK(utf8_cut_suffix("a\xF0\x9F\x98") == 3);
  CHECK(utf8_cut_suffix("a\xF0\x9F\x98\x80") == 0);
  CHECK(utf8_cut_suffix("a\xE0\x80") == 0);  // no code point begins like this
  CHECK(utf8_cut_suffix("\x80\x80\x80") == 0);
  CHECK(utf8_cut_suffix("\xFF") == 0);
}

TEST_CASE("utf8: white space is Unicode's") {
  std::set<std::uint32_t> spaces;
  for (std::uint32_t code = 0; code < 0x110000; ++code)
    if (unicode_space(code)) spaces.insert(code);
  CHECK(spaces.size() == 25);
  CHECK(!spaces.contains(0x180E));
  CHECK(!spaces.contains(0x200B));
}

TEST_CASE("byte alphabet: 256 distinct printable letters, there and back") {
  std::set<int> letters(byte_alphabet::code_points.begin(), byte_alphabet::code_points.end());
  CHECK(letters.size() == 256);
  CHECK(*letters.rbegin() == 0x143);
  CHECK(byte_alphabet::spelled(" \n\xC3\xA9~") == "\u0120\u010A\u00C3\u00A9~");
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  CHECK(byte_alphabet::read(byte_alphabet::spelled(all)) == all);
  CHECK(!byte_alphabet::read("a b"));
  CHECK(!byte_alphabet::read("\u2581"));
  CHECK(!byte_alphabet::read("\xC3"));
}
