// SPDX-License-Identifier: MIT
// Any bytes as a tokenizer.json: one sentence, or a tokenizer that survives being written and read again. And
// any bytes as a text: they come back from their tokens, whole and streamed.
#include <dsv3/text/detokenizer.hpp>

#include <text/byte_tokenizer.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace dsv3;

void demand(bool holds) {
  if (!holds) __builtin_trap();
}

/// Few merges over bytes that the fuzzer finds easily, DeepSeek-V3's patterns, added tokens that overlap.
const tokenizer& built_in() {
  static const tokenizer words = [] {
    tokenizer_definition definition = support::byte_tokenizer();
    for (const char* token : {"ab", "abab", "  ", " a", "\xE4\xBB", "\xE4\xBB\x8A", "\n\n"})
      definition.vocabulary.push_back({token});
    definition.merges = {{'a', 'b'},   {256, 256},  {' ', ' '},  {' ', 'a'},
                         {0xE4, 0xBB}, {260, 0x8A}, {'\n', '\n'}};
    definition.splits = deepseek_v3_splits();
    definition.added_tokens = {{.id = 263, .content = "<s>"},
                               {.id = 264, .content = "<s><s", .special = false, .normalized = true},
                               {.id = 265, .content = "a1", .special = false, .single_word = true}};
    return tokenizer{definition};
  }();
  return words;
}

void come_back(const tokenizer& words, std::string_view text) {
  tokenizer::encoder encoder{words};
  std::vector<std::int32_t> ids, again;
  encoder.encode(text, ids);
  encoder.encode(text, again);
  demand(ids == again);
  demand(words.decode(ids) == text);
  detokenizer stream{words};
  std::string pieces;
  for (const std::int32_t id : ids) pieces += stream.push(id);
  demand(pieces + std::string(stream.finish()) == text);
  demand(words.decode(words.encode_ordinary(text)) == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  come_back(built_in(), bytes);
  try {
    const tokenizer_definition definition = parse_tokenizer(parse_json(bytes, "fuzz"), "fuzz");
    demand(parse_tokenizer(parse_json(tokenizer_json(definition), "written"), "written") == definition);
    const tokenizer words{definition};
    for (const std::int32_t id : words.encode(bytes.substr(0, 64), {.frame = true}))
      demand(words.contains(id));
  } catch (const error& refusal) {
    demand(std::string_view{refusal.what()}.size() < 4096);
  }
  return 0;
}
