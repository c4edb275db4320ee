// SPDX-License-Identifier: MIT
#include <dsv3/text/tokenizer.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>
#include <text/byte_tokenizer.hpp>

#include <doctest/doctest.h>

#include <string>
#include <variant>

using namespace dsv3;
using support::raised;

namespace {

/// A good file, to be spoiled.
json good() {
  tokenizer_definition definition = support::byte_tokenizer();
  definition.vocabulary.push_back({" a"});
  definition.vocabulary.push_back({"<｜x｜>", true});
  definition.merges = {{' ', 'a'}};
  definition.splits = deepseek_v3_splits();
  definition.added_tokens = {{.id = 257, .content = "<｜x｜>"},
                             {.id = 258, .content = "<y>", .special = false}};
  definition.before = {257};
  return parse_json(tokenizer_json(definition), "good");
}

template <class Change>
std::string refusal(Change&& change) {
  json file = good();
  change(file);
  return raised([&] { parse_tokenizer(file, "t.json"); });
}

/// Every field of a definition, not as the defaults are.
tokenizer_definition everything() {
  tokenizer_definition definition = support::byte_tokenizer();
  definition.vocabulary.push_back({"\xC3\xA9"});
  definition.vocabulary.push_back({"<\u2581>", true});
  definition.vocabulary.push_back({"<unk>"});
  definition.merges = {{0xC3, 0xA9}};
  definition.ignore_merges = true;
  definition.unknown_token = "<unk>";
  definition.splits = {split_rule{"a+", true, split_behaviour::contiguous, true},
                       split_rule{"\"\\", false, split_behaviour::merged_with_next, false},
                       split_rule{"x", true, split_behaviour::merged_with_previous, false},
                       split_rule{"y", true, split_behaviour::removed, false},
                       digits_rule{true},
                       digits_rule{false}};
  definition.byte_level = {true, true, false};
  definition.added_tokens = {
      {.id = 257, .content = "<\u2581>", .special = true, .normalized = true},
      {.id = 259, .content = "w", .special = false, .lstrip = true, .rstrip = true, .single_word = true},
      {.id = 258, .content = "<unk>"}};
  definition.before = {257, 258};
  definition.after = {259};
  return definition;
}

}  // namespace

TEST_CASE("tokenizer file: what is written is read") {
  const support::temporary_folder folder;
  for (const tokenizer_definition& definition : {everything(), support::byte_tokenizer()}) {
    write_tokenizer(folder / "tokenizer.json", definition);
    CHECK(read_tokenizer(folder / "tokenizer.json") == definition);
    CHECK(tokenizer::load(folder.path()).definition() == definition);
  }
}

TEST_CASE("tokenizer file: published layouts survive being written") {
  for (const std::string layout : {"deepseek", "gpt2", "llama", "cased", "behaviours"}) {
    CAPTURE(layout);
    const std::string path = "tests/data/tokenizers/" + layout + "/tokenizer.json";
    const tokenizer_definition definition = read_tokenizer(path);
    CHECK(parse_tokenizer(parse_json(tokenizer_json(definition), "again"), "again") == definition);
  }
}

TEST_CASE("tokenizer file: the DeepSeek-V3 layout is what deepseek_v3_splits says") {
  const tokenizer_definition definition = read_tokenizer("tests/data/tokenizers/deepseek/tokenizer.json");
  CHECK(definition.splits.size() == 3);
  const tokenizer given{definition};
  tokenizer_definition ours = definition;
  ours.splits = deepseek_v3_splits();
  const tokenizer words{ours};
  for (const json& example : read_json("tests/data/tokenizers/deepseek/cases.json")) {
    const auto text = example["text"].get<std::string>();
    CHECK(words.encode(text) == given.encode(text));
  }
  CHECK(definition.before.size() == 1);
  CHECK(definition.added_tokens.front().content == "<｜begin▁of▁sentence｜>");
  CHECK(!definition.ignore_merges);
  CHECK(read_tokenizer("tests/data/tokenizers/llama/tokenizer.json").ignore_merges);
}

TEST_CASE("tokenizer file: merges as lines and as pairs") {
  json file = good();
  const tokenizer_definition lines = parse_tokenizer(file, "t.json");
  file["model"]["merges"] = json::array({json::array({"Ġ", "a"})});
  CHECK(parse_tokenizer(file, "t.json") == lines);
  file["model"]["merges"] = {"#version: 0.2", "Ġ a"};
  CHECK(parse_tokenizer(file, "t.json") == lines);
}

TEST_CASE("tokenizer file: processors one inside the other") {
  json file = good();
  const json frame = file["post_processor"];
  file["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, frame, frame}}};
  CHECK(parse_tokenizer(file, "t.json").before == std::vector<std::int32_t>{257, 257});
  file["post_processor"] = nullptr;
  CHECK(parse_tokenizer(file, "t.json").before.empty());
}

TEST_CASE("tokenizer file: what is not supported is named") {
  CHECK(refusal([](json&) {}).empty());
  CHECK(refusal([](json& f) { f["version"] = "2.0"; }) == "t.json: version is \"2.0\", expected \"1.0\"");
  CHECK(refusal([](json& f) {
          f["truncation"] = {{"max_length", 4}};
        }) == "t.json: truncation is {\"max_length\":4}, expected null: texts are encoded whole");
  CHECK(refusal([](json& f) {
          f["normalizer"] = {{"type", "NFC"}};
        }) == "t.json: normalizer: type is \"NFC\", expected none: text is encoded as it is");
  CHECK(
      refusal([](json& f) { f["pre_tokenizer"]["pretokenizers"][1]["type"] = "Metaspace"; }) ==
      "t.json: pre_tokenizer.pretokenizers[1]: type is \"Metaspace\", expected Split, Digits, ByteLevel or a "
      "Sequence of them");
  CHECK(refusal([](json& f) {
          f["pre_tokenizer"]["pretokenizers"].erase(3);
        }).ends_with(", expected ByteLevel, or a Sequence that ends with it"));
  CHECK(refusal([](json& f) {
          f["pre_tokenizer"]["pretokenizers"].push_back({{"type", "Digits"}});
        }) == "t.json: pre_tokenizer.pretokenizers[4]: type is \"Digits\", expected nothing after ByteLevel");
  CHECK(refusal([](json& f) { f["pre_tokenizer"] = nullptr; }) ==
        "t.json: pre_tokenizer is null, expected ByteLevel");
  CHECK(refusal([](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Gone"; }) ==
        "t.json: pre_tokenizer.pretokenizers[0]: behavior is \"Gone\", expected one of Isolated, Removed, "
        "MergedWithPrevious, MergedWithNext, Contiguous");
  CHECK(refusal([](json& f) {
          f["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"Glob", "*"}};
        }) == "t.json: pre_tokenizer.pretokenizers[0]: pattern: String is missing, expected a string");
  CHECK(refusal([](json& f) { f["decoder"] = nullptr; }) == "t.json: decoder is null, expected ByteLevel");
  CHECK(refusal([](json& f) { f["decoder"]["type"] = "Fuse"; }) ==
        "t.json: decoder: type is \"Fuse\", expected ByteLevel");
  CHECK(refusal([](json& f) { f["post_processor"]["type"] = "RobertaProcessing"; }) ==
        "t.json: post_processor: type is \"RobertaProcessing\", expected ByteLevel, TemplateProcessing or a "
        "Sequence of them");
  CHECK(refusal([](json& f) { f["model"]["type"] = "Unigram"; }) ==
        "t.json: model: type is \"Unigram\", expected \"BPE\"");
  CHECK(refusal([](json& f) { f["model"]["byte_fallback"] = true; }) ==
        "t.json: model: byte_fallback is true, expected false: bytes are tokens");
  CHECK(refusal([](json& f) { f["model"]["dropout"] = 0.1; }) ==
        "t.json: model: dropout is 0.1, expected null or 0");
  CHECK(refusal([](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }) ==
        "t.json: model: end_of_word_suffix is \"</w>\", expected null or \"\"");
  CHECK(refusal([](json& f) { f["model"]["speed"] = 1; }) == "t.json: model: speed is not a known key");
}

TEST_CASE("tokenizer file: what contradicts itself is named") {
  CHECK(refusal([](json& f) { f.erase("model"); }) == "t.json: model is null, expected a BPE model");
  CHECK(refusal([](json& f) { f["model"]["vocab"]["a"] = 999; }) ==
        "t.json: model: vocab: token \"a\" has id 999, expected each of 0 to 257 once");
  CHECK(refusal([](json& f) { f["model"]["vocab"]["a"] = 98u; }) ==
        "t.json: model: vocab: token \"b\" has id 98, expected each of 0 to 257 once");
  CHECK(refusal([](json& f) { f["model"]["vocab"] = 3; }) ==
        "t.json: model: vocab: found 3, expected an object of tokens and ids");
  CHECK(refusal([](json& f) { f["model"]["merges"][0] = "a"; }) ==
        "t.json: model.merges[0]: found \"a\", expected two tokens and one space");
  CHECK(refusal([](json& f) { f["model"]["merges"][0] = 3; }) ==
        "t.json: model.merges[0]: found 3, expected two tokens");
  CHECK(refusal([](json& f) { f["model"]["merges"][0] = "a b"; }) ==
        "t.json: model.merges[0]: token \"ab\" is not in the vocabulary");
  CHECK(
      refusal([](json& f) { f["added_tokens"][1]["id"] = 300; }) ==
      "t.json: added_tokens[1]: id is 300, expected 258: ids outside the vocabulary follow it without a gap");
  CHECK(refusal([](json& f) { f["added_tokens"][1].erase("special"); }) ==
        "t.json: added_tokens[1]: special is missing, expected true or false");
  CHECK(refusal([](json& f) { f["added_tokens"] = 1; }) ==
        "t.json: added_tokens: found 1, expected an array");
  CHECK(refusal([](json& f) { f["post_processor"]["special_tokens"] = json::object(); }) ==
        "t.json: post_processor: special_tokens: <｜x｜> is null, expected the ids of the template's token");
  CHECK(refusal([](json& f) {
          f["post_processor"]["single"].erase(1);
        }).ends_with(", expected the text, Sequence A, among its pieces"));
  CHECK(raised([] { parse_tokenizer(json::array(), "t.json"); }) == "t.json: found [], expected an object");
}

TEST_CASE("tokenizer file: errors of a file name the file") {
  const support::temporary_folder folder;
  CHECK(raised([&] { tokenizer::load(folder.path()); }) ==
        folder / "tokenizer.json: cannot be opened: No such file or directory");
  support::put(folder / "tokenizer.json", "{");
  CHECK(raised([&] { tokenizer::load(folder.path()); }).starts_with(folder / "tokenizer.json: line 1"));
  json file = good();
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a";
  write_json(folder / "tokenizer.json", file);
  CHECK(raised([&] {
          tokenizer::load(folder.path());
        }).starts_with(folder / "tokenizer.json: pattern \"(a\": PCRE2 refuses it at byte 2"));
}
