// SPDX-License-Identifier: MIT
#include <dsv3/text/detokenizer.hpp>

#include <support/run.hpp>
#include <text/byte_tokenizer.hpp>

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

using namespace dsv3;

namespace {
std::string streamed(const tokenizer& words, const std::vector<std::int32_t>& ids,
                     decode_options options = {}) {
  detokenizer stream{words, options};
  std::string text;
  for (const std::int32_t id : ids) text += stream.push(id);
  return text + std::string(stream.finish());
}
}  // namespace

TEST_CASE("detokenizer: a character comes whole or not yet") {
  const tokenizer words{support::byte_tokenizer()};
  detokenizer stream{words};
  CHECK(stream.push('a') == "a");
  CHECK(stream.push(0xF0).empty());
  CHECK(stream.push(0x9F).empty());
  CHECK(stream.push(0x98).empty());
  CHECK(stream.push(0x80) == "😀");
  CHECK(stream.push(0xE4).empty());
  CHECK(stream.push('b') ==
        "\xE4"
        "b");  // nothing can complete it any more
  CHECK(stream.push(0xC3).empty());
  CHECK(stream.finish() == "\xC3");
  CHECK(stream.finish().empty());
  CHECK(stream.push('c') == "c");
}

TEST_CASE("detokenizer: every piece is UTF-8 where the whole is, and the pieces are what decode says") {
  const tokenizer words = tokenizer::load("tests/data/tokenizers/deepseek");
  const json cases = read_json("tests/data/tokenizers/deepseek/cases.json");
  for (const json& example : cases) {
    const auto ids = example["ids"].get<std::vector<std::int32_t>>();
    detokenizer stream{words};
    std::string text;
    for (const std::int32_t id : ids) {
      const std::string_view piece = stream.push(id);
      CHECK(utf8_valid_prefix(piece) == piece.size());
      text += piece;
    }
    CHECK(stream.finish().empty());
    CHECK(text == words.decode(ids));
    CHECK(streamed(words, ids, {.special = false}) == words.decode(ids, {.special = false}));
  }
}

TEST_CASE("detokenizer: any ids, as decode has them") {
  const tokenizer words = tokenizer::load("tests/data/tokenizers/gpt2");
  std::mt19937 random{3};
  for (int i = 0; i < 200; ++i) {
    std::vector<std::int32_t> ids(random() % 60);
    for (std::int32_t& id : ids)
      id = static_cast<std::int32_t>(random() % static_cast<unsigned>(i % 2 == 0 ? words.vocab() : 256));
    CHECK(streamed(words, ids) == words.decode(ids));
  }
}

TEST_CASE("detokenizer: an id that is none raises and changes nothing") {
  const tokenizer words{support::byte_tokenizer()};
  detokenizer stream{words};
  CHECK(stream.push(0xC3).empty());
  CHECK(support::raised([&] { stream.push(256); }) == "tokenizer: id 256 found, expected 0 to 255");
  CHECK(stream.push(0xA9) == "é");
}
