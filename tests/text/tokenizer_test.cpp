// SPDX-License-Identifier: MIT
#include <dsv3/text/detokenizer.hpp>
#include <dsv3/text/tokenizer.hpp>

#include <support/run.hpp>
#include <text/byte_tokenizer.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace dsv3;
using support::raised;

namespace {

using ids = std::vector<std::int32_t>;

const std::string layouts[] = {"deepseek", "gpt2", "llama", "cased", "behaviours"};
std::string folder_of_layout(const std::string& name) { return "tests/data/tokenizers/" + name; }

std::string random_bytes(std::mt19937& random, std::size_t size) {
  std::string text(size, '\0');
  for (char& byte : text) byte = static_cast<char>(random());
  return text;
}

/// The definition of BPE, without tables: merges the pair of least rank, leftmost first, until none is left.
ids merged_naively(const tokenizer_definition& definition, std::string_view word) {
  std::map<std::string, std::int32_t> id_of;
  for (std::size_t i = 0; i < definition.vocabulary.size(); ++i)
    id_of[definition.vocabulary[i].bytes] = static_cast<std::int32_t>(i);
  std::map<std::pair<std::int32_t, std::int32_t>, std::size_t> ranks;
  for (std::size_t i = 0; i < definition.merges.size(); ++i) ranks[definition.merges[i]] = i;
  ids tokens;
  for (const char byte : word) tokens.push_back(id_of.at(std::string(1, byte)));
  for (;;) {
    std::size_t least = ranks.size(), place = 0;
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto found = ranks.find({tokens[i], tokens[i + 1]});
      if (found != ranks.end() && found->second < least) least = found->second, place = i;
    }
    if (least == ranks.size()) return tokens;
    const auto bytes = [&](std::size_t i) {
      return definition.vocabulary[static_cast<std::size_t>(tokens[i])].bytes;
    };
    tokens[place] = id_of.at(bytes(place) + bytes(place + 1));
    tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

}  // namespace

TEST_CASE("tokenizer: the ids of Hugging Face's tokenizers") {
  for (const std::string& layout : layouts) {
    CAPTURE(layout);
    const tokenizer words = tokenizer::load(folder_of_layout(layout));
    const json cases = read_json(folder_of_layout(layout) + "/cases.json");
    CHECK(cases.size() > 200);
    tokenizer::encoder encoder{words};
    for (const json& example : cases) {
      const auto text = example["text"].get<std::string>();
      CAPTURE(text);
      const auto expected = example["ids"].get<ids>();
      ids found;
      encoder.encode(text, found);
      CHECK(found == expected);
      if (example.contains("framed"))
        CHECK(words.encode(text, {.frame = true}) == example["framed"].get<ids>());
    }
  }
}

TEST_CASE("tokenizer: any bytes come back") {
  std::mt19937 random{5};
  for (const std::string layout : {"deepseek", "llama", "cased"}) {
    const tokenizer words = tokenizer::load(folder_of_layout(layout));
    tokenizer::encoder encoder{words};
    for (int i = 0; i < 300; ++i) {
      std::string text = random_bytes(random, random() % 200);
      if (i % 3 == 0) text = "今天 \xF0\x9F" + text + "<｜User｜>\xE4\xBB" + "<s>";
      ids found;
      encoder.encode(text, found);
      CHECK(words.decode(found) == text);
      CHECK(words.decode(words.encode_ordinary(text)) == text);
    }
  }
}

TEST_CASE("tokenizer: a byte that is not UTF-8 is its own token, and cuts the text") {
  const tokenizer words = tokenizer::load(folder_of_layout("deepseek"));
  const ids hello = words.encode(" the"), bad = {*words.id_of("\xFF")};
  ids expected = hello;
  expected.insert(expected.end(), bad.begin(), bad.end());
  expected.insert(expected.end(), hello.begin(), hello.end());
  CHECK(words.encode(" the\xFF the") == expected);
  CHECK(words.encode("\xE4\xBB") == ids{*words.id_of("\xE4"), *words.id_of("\xBB")});
}

TEST_CASE("tokenizer: words of every length are merged as BPE is defined") {
  const tokenizer_definition definition = read_tokenizer(folder_of_layout("deepseek") + "/tokenizer.json");
  tokenizer_definition plain = definition;
  plain.splits.clear();  // a text is one word
  const tokenizer words{plain};
  std::mt19937 random{9};
  const std::string syllables[] = {"ka", "tion", "th", "e", "aaaa", "при", "\n", " ", "안녕", "sch", "ing"};
  for (const int count : {1, 2, 5, 9, 10, 11, 12, 13, 30, 120}) {
    std::string word;
    for (int i = 0; i < count; ++i) word += syllables[random() % std::size(syllables)];
    CAPTURE(word);
    CHECK(words.encode_ordinary(word) == merged_naively(plain, word));
  }
  for (const std::size_t size : {47, 48, 49, 50, 300})
    CHECK(words.encode_ordinary(std::string(size, 'a')) == merged_naively(plain, std::string(size, 'a')));
}

TEST_CASE("tokenizer: a word without end takes no quadratic time") {
  const tokenizer words = tokenizer::load(folder_of_layout("deepseek"));
  for (const std::string part : {"a", "ka", " ", "\n", "-", "今", "1", "\xFF", "<｜User｜>", "<｜place"}) {
    std::string text;
    while (text.size() < 300'000) text += part;
    CHECK(words.decode(words.encode(text)) == text);
  }
}

TEST_CASE("tokenizer: added tokens are found only where they are asked for") {
  const tokenizer words = tokenizer::load(folder_of_layout("deepseek"));
  const std::int32_t user = *words.id_of("<｜User｜>"), begin = *words.id_of("<｜begin▁of▁sentence｜>");
  CHECK(words.encode("<｜User｜>") == ids{user});
  CHECK(words.encode_ordinary("<｜User｜>").size() > 3);
  CHECK(words.decode(words.encode_ordinary("<｜User｜>")) == "<｜User｜>");
  CHECK(words.encode("", {.frame = true}) == ids{begin});
  CHECK(words.encode("").empty());
  CHECK(words.is_special(begin));
  CHECK(!words.is_special(user));
  CHECK(!words.is_special(-1));
  CHECK(!words.is_special(words.vocab()));
  CHECK(words.bytes_of(begin) == "<｜begin▁of▁sentence｜>");
  CHECK(words.decode(ids{begin, user}, {.special = false}) == "<｜User｜>");
  CHECK(words.id_of(" ") == words.encode(" ").front());
  CHECK(!words.id_of("no such token"));
}

TEST_CASE("tokenizer: ids are appended, and the vocabulary is every id") {
  const tokenizer words = tokenizer::load(folder_of_layout("llama") + "/tokenizer.json");
  ids out = {7};
  words.encode("a", out);
  CHECK(out == ids{7, *words.id_of("a")});
  CHECK(words.vocab() == words.definition().count());
  CHECK(words.contains(words.vocab() - 1));
  CHECK(words.check(words.vocab()).good());
  CHECK(words.check(words.vocab() + 1).good());
  const std::string last = std::to_string(words.vocab() - 1), all = std::to_string(words.vocab());
  CHECK(words.check(10).message() ==
        "the tokenizer has ids up to " + last + ", the model's vocab_size is 10, expected at least " + all);
  CHECK(raised([&] {
          words.decode(ids{1, words.vocab()});
        }) == "decode: id " + all + " found at position 1, expected 0 to " + last);
  CHECK(raised([&] { words.bytes_of(-1); }) == "tokenizer: id -1 found, expected 0 to " + last);
}

TEST_CASE("tokenizer: threads may share one") {
  const tokenizer words = tokenizer::load(folder_of_layout("deepseek"));
  std::string text;
  for (int i = 0; i < 2000; ++i) text += " wörter" + std::to_string(i * 7919) + (i % 7 == 0 ? "今天\n" : " ");
  const ids expected = words.encode(text);
  std::vector<ids> found(3);
  std::vector<std::thread> threads;
  for (ids& mine : found) threads.emplace_back([&] { mine = words.encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const ids& each : found) CHECK(each == expected);
}

TEST_CASE("tokenizer: an encoder that has met many words says the same") {
  const tokenizer words = tokenizer::load(folder_of_layout("deepseek"));
  tokenizer::encoder encoder{words};
  ids found;
  for (int i = 0; i < 150'000; ++i) {  // more than it remembers
    found.clear();
    const std::string word = " x" + std::string(1, static_cast<char>('a' + i % 26)) + std::to_string(i);
    encoder.encode(word, found);
    if (i % 5000 == 0) CHECK(found == words.encode(word));
  }
  ids again;
  encoder.encode(" xa0 the", again);
  CHECK(again == words.encode(" xa0 the"));
}

TEST_CASE("tokenizer: merged by hand, split by nothing") {
  tokenizer_definition definition = support::byte_tokenizer();
  definition.vocabulary.push_back({"ab"});
  definition.vocabulary.push_back({"abc"});
  definition.merges = {{'a', 'b'}, {256, 'c'}};
  definition.added_tokens = {{.id = 258, .content = "<e>", .rstrip = true}};
  definition.after = {258};
  const tokenizer words{definition};
  CHECK(words.encode("abcab<e>  c", {.frame = true}) == ids{257, 256, 258, 'c', 258});
  CHECK(words.decode(words.encode("abcab<e>  c")) == "abcab<e>c");  // rstrip takes the white space
  CHECK(words.encode("").empty());
}

TEST_CASE("tokenizer: a definition that contradicts itself is refused") {
  const auto refusal = [](auto&& change) {
    tokenizer_definition definition = support::byte_tokenizer();
    change(definition);
    return raised([&] { tokenizer{definition}; });
  };
  CHECK(refusal([](auto&) {}).empty());
  CHECK(refusal([](auto& d) { d.vocabulary.pop_back(); }) ==
        "vocab: byte 255 is no token, expected all 256 bytes");
  CHECK(refusal([](auto& d) { d.vocabulary.push_back({"a"}); }) ==
        "vocab: tokens 97 and 256 are the same bytes, expected distinct tokens");
  CHECK(refusal([](auto& d) { d.vocabulary.push_back({}); }) == "vocab: token 256 is empty");
  CHECK(refusal([](auto& d) { d.vocabulary.push_back({"\xFF", true}); }) == "vocab: token 256 is not UTF-8");
  CHECK(refusal([](auto& d) { d.merges = {{1, 256}}; }) == "merges[0]: id 256 found, expected 0 to 255");
  CHECK(refusal([](auto& d) {
          d.merges = {{97, 98}};
        }) == "merges[0]: tokens 97 and 98 together are no token of the vocabulary");
  CHECK(refusal([](auto& d) { d.added_tokens = {{.id = 257, .content = "<s>"}}; }) ==
        "added_tokens[0]: id is 257, expected 256: ids outside the vocabulary follow it without a gap");
  CHECK(refusal([](auto& d) { d.added_tokens = {{.id = 97, .content = "<s>"}}; }) ==
        "added_tokens[0]: content \"<s>\" has id 97, which is another token in the vocabulary");
  CHECK(refusal([](auto& d) {
          d.added_tokens = {{.id = 256, .content = "s"}, {.id = 257, .content = "s"}};
        }) == "added_tokens[1]: content \"s\" found twice, expected distinct contents");
  CHECK(refusal([](auto& d) {
          d.added_tokens = {{.id = 256, .content = "s"}, {.id = 256, .content = "t"}};
        }) == "added_tokens[1]: id 256 found twice, expected distinct ids");
  CHECK(refusal([](auto& d) { d.added_tokens = {{.id = 256, .content = ""}}; }) ==
        "added_tokens[0]: content is empty, expected at least one character");
  CHECK(refusal([](auto& d) { d.added_tokens = {{.id = 256, .content = "\xFF"}}; }) ==
        "added_tokens[0]: content is not UTF-8");
  CHECK(refusal([](auto& d) { d.before = {256}; }) == "post_processor: id 256 found, expected 0 to 255");
  CHECK(refusal([](auto& d) { d.splits = {split_rule{"\xFF"}}; }) == "split 0: the pattern is not UTF-8");
  CHECK(refusal([](auto& d) {
          d.splits = {split_rule{"(a"}};
        }).starts_with("pattern \"(a\": PCRE2 refuses it at byte 2"));
}
