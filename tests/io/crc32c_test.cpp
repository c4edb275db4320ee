// SPDX-License-Identifier: MIT
#include <dsv3/io/crc32c.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace dsv3;

namespace {

/// One bit at a time, as the polynomial division is defined.
std::uint32_t bit_by_bit(std::string_view text) {
  std::uint32_t state = ~0u;
  for (const char letter : text) {
    state ^= static_cast<unsigned char>(letter);
    for (int bit = 0; bit < 8; ++bit) state = state & 1 ? (state >> 1) ^ 0x82F63B78u : state >> 1;
  }
  return ~state;
}

std::string letters(std::size_t count) {
  std::string text(count, '\0');
  for (std::size_t i = 0; i < count; ++i) text[i] = static_cast<char>(i * 131 + (i >> 3));
  return text;
}

}  // namespace

TEST_CASE("crc32c: published answers") {
  CHECK(crc32c_of("123456789") == 0xE3069283u);
  CHECK(crc32c_of("") == 0u);
  CHECK(crc32c_of(std::string(32, '\0')) == 0x8A9136AAu);    // RFC 3720, B.4
  CHECK(crc32c_of(std::string(32, '\xff')) == 0x62A8AB43u);  // RFC 3720, B.4
}

TEST_CASE("crc32c: tables, instruction and streaming agree with the division at every length and alignment") {
  const std::string text = letters(100);
  for (std::size_t begin = 0; begin < 9; ++begin)
    for (std::size_t count = 0; begin + count <= text.size(); ++count) {
      const std::string_view part = std::string_view(text).substr(begin, count);
      const std::uint32_t expected = bit_by_bit(part);
      CHECK(crc32c_of(part) == expected);
      const auto bytes = std::as_bytes(std::span(part));
      CHECK(~detail::crc32c_by_table(~0u, bytes.data(), bytes.size()) == expected);
      CHECK(crc32c{}.update(part.substr(0, count / 3)).update(part.substr(count / 3)).value() == expected);
    }
}

TEST_CASE("crc32c: pieces join") {
  const std::string text = letters(3000);
  const std::string_view all = text;
  for (const std::size_t cut : {0, 1, 7, 8, 255, 256, 1024, 2999, 3000})
    CHECK(crc32c_join(crc32c_of(all.substr(0, cut)), crc32c_of(all.substr(cut)), all.size() - cut) ==
          crc32c_of(all));
}
