// SPDX-License-Identifier: MIT
// Trained merges against Hugging Face's BpeTrainer and against recounting everything at every step.
#include <dsv3/io/json.hpp>
#include <dsv3/text/bpe_trainer.hpp>
#include <dsv3/text/tokenizer_file.hpp>

#include <dsv3/exec/random.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace dsv3;

namespace {

const std::string folder = "tests/data/tokenizers/trained/";

std::vector<std::string_view> documents_of(std::string_view text) {
  std::vector<std::string_view> documents;
  const std::string_view mark = "\n%%\n";
  for (std::size_t end; (end = text.find(mark)) != text.npos; text.remove_prefix(end + mark.size()))
    documents.push_back(text.substr(0, end));
  documents.push_back(text);
  return documents;
}

// As the files spell it.
std::vector<std::string> spelled_vocabulary(const tokenizer_definition& trained) {
  std::vector<std::string> tokens;
  for (const vocabulary_token& token : trained.vocabulary)
    tokens.push_back(token.literal ? token.bytes : byte_alphabet::spelled(token.bytes));
  return tokens;
}

void compare(const std::string& name, bpe_options options) {
  CAPTURE(name);
  const mapped_file corpus{folder + "corpus.txt"};
  const json golden = read_json(folder + name + ".json");
  const json& vocab = golden["model"]["vocab"];
  std::vector<std::string> expected(vocab.size());
  for (const auto& [token, id] : vocab.items()) expected.at(id.get<std::size_t>()) = token;
  for (options.threads = 1; options.threads <= 3; ++options.threads) {
    bpe_trainer trainer{options};
    trainer.add(documents_of(corpus.text()));
    const tokenizer_definition trained = trainer.train();
    const std::vector<std::string> found = spelled_vocabulary(trained);
    CHECK(found == expected);
    const json& merges = golden["model"]["merges"];
    REQUIRE(trained.merges.size() == merges.size());
    for (std::size_t i = 0; i < merges.size(); ++i) {
      CHECK(found[static_cast<std::size_t>(trained.merges[i].first)] == merges[i][0].get<std::string>());
      CHECK(found[static_cast<std::size_t>(trained.merges[i].second)] == merges[i][1].get<std::string>());
    }
    CHECK(trained.added_tokens.size() == options.special_tokens.size());
    CHECK(trained.before.size() == (name == "deepseek" ? 1 : 0));
    CHECK(parse_tokenizer(json::parse(tokenizer_json(trained)), name) == trained);
  }
}

// Words as lists of texts; every pair is counted anew for each merge.
std::vector<std::string> by_recounting(const std::map<std::string, index_t>& words, std::size_t count) {
  std::vector<std::string> tokens;
  for (char letter = 'a'; letter <= 'e'; ++letter) tokens.emplace_back(1, letter);
  std::vector<std::pair<std::vector<std::size_t>, index_t>> split;
  for (const auto& [word, frequency] : words) {
    split.emplace_back(std::vector<std::size_t>{}, frequency);
    for (const char letter : word) split.back().first.push_back(static_cast<std::size_t>(letter - 'a'));
  }
  while (tokens.size() < count) {
    std::map<std::pair<std::size_t, std::size_t>, index_t> pairs;
    for (const auto& [ids, frequency] : split)
      for (std::size_t i = 1; i < ids.size(); ++i) pairs[{ids[i - 1], ids[i]}] += frequency;
    if (pairs.empty()) break;
    auto best = pairs.begin();
    for (auto at = pairs.begin(); at != pairs.end(); ++at)
      if (at->second > best->second) best = at;
    const auto [left, right] = best->first;
    for (auto& [ids, frequency] : split) {
      std::vector<std::size_t> joined;
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const bool here = ids[i] == left && i + 1 < ids.size() && ids[i + 1] == right;
        joined.push_back(here ? tokens.size() : ids[i]);
        i += here;
      }
      ids = std::move(joined);
    }
    tokens.push_back(tokens[left] + tokens[right]);
  }
  return tokens;
}

std::string text_of(index_t words, std::uint64_t seed) {
  const random_stream random{seed, 1};
  std::string text;
  for (index_t w = 0; w < words; ++w) {
    const auto at = static_cast<std::uint64_t>(16 * w);
    if (w > 0) text += ' ';
    for (std::uint64_t i = 0; i <= random.below(9, at); ++i)
      text += static_cast<char>('a' + random.below(3 + random.below(3, at + 1), at + 2 + i));
  }
  return text;
}

}  // namespace

TEST_CASE("the merges are those of Hugging Face's trainer, for any number of threads") {
  const std::vector<std::string> marks{"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"};
  compare("deepseek", {.vocab = 700, .special_tokens = marks, .min_frequency = 0});
  compare(
      "gpt2",
      {.vocab = 700, .cutting = text_cutting::gpt2, .special_tokens = {"<|endoftext|>"}, .min_frequency = 3});
  compare("exhausted", {.vocab = 100000, .special_tokens = {}, .min_frequency = 4});
}

TEST_CASE("incremental counts are those of counting everything again") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::map<std::string, index_t> words;
    const std::string text = text_of(300, seed);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find(' ', at), text.size());
      ++words[text.substr(at, end - at)];
      at = end + 1;
    }
    detail::word_ids ids;
    std::array<std::uint32_t, 256> id_of_byte{};
    std::vector<std::string> letters;
    for (char letter = 'a'; letter <= 'e'; ++letter) {
      id_of_byte[static_cast<unsigned char>(letter)] = static_cast<std::uint32_t>(letters.size());
      letters.emplace_back(1, letter);
    }
    for (const auto& [word, count] : words) ids.add(word, count, id_of_byte);
    CHECK(learn_pairs(std::move(ids), letters, 120, 1).tokens == by_recounting(words, 120));
  }
}

TEST_CASE("a text cut into stretches for threads has the words of the whole") {
  const mapped_file file{folder + "corpus.txt"};
  const std::string_view corpus = file.text();
  for (const auto cutting : {text_cutting::deepseek_v3, text_cutting::gpt2}) {
    tokenizer_definition rules;
    if (cutting == text_cutting::deepseek_v3) rules.splits = deepseek_v3_splits();
    rules.byte_level.use_regex = cutting == text_cutting::gpt2;
    const splitter words{rules};
    pattern_scratch scratch;
    const auto counted = [&](const std::vector<std::string_view>& texts) {
      std::vector<std::string> found;
      for (const std::string_view text : texts)
        words.split(text, scratch, [&](std::string_view word) { found.emplace_back(word); });
      return found;
    };
    const auto whole = counted({corpus});
    for (const std::size_t size : {1, 7, 100, 1000, 100000}) {
      std::vector<std::string_view> stretches;
      detail::append_stretches(corpus, size, stretches);
      CHECK((size >= corpus.size()) == (stretches.size() == 1));
      CHECK(counted(stretches) == whole);
    }
  }
}

TEST_CASE("texts may come one by one, and a long one is one text") {
  const std::string text = text_of(400000, 3);  // more than two stretches
  REQUIRE(text.size() > (std::size_t{2} << 20));
  const std::string_view all = text, first = all.substr(0, text.find(' ', 1000)),
                         second = all.substr(first.size());
  bpe_trainer together{{.vocab = 400, .special_tokens = {}, .threads = 2}},
      apart{{.vocab = 400, .special_tokens = {}}};
  together.add({&all, 1});
  apart.add({&first, 1});
  apart.add({&second, 1});
  CHECK(together.distinct_words() == apart.distinct_words());
  CHECK(together.train() == apart.train());
}

TEST_CASE("progress is told, and rare pairs stay apart") {
  const std::string_view text = "abab abab xy";
  std::vector<index_t> told;
  bpe_trainer trainer{{.vocab = 2000, .min_frequency = 2, .progress = [&](index_t n) { told.push_back(n); }}};
  trainer.add({&text, 1});
  const tokenizer_definition trained = trainer.train();
  CHECK(told.empty());
  CHECK(trained.vocabulary.size() == 6 + 256 + 2);  // ab, abab; " abab" was seen once
  const std::string many = text_of(20000, 8);
  const std::string_view more = many;
  bpe_trainer longer{{.vocab = 1100, .progress = [&](index_t n) { told.push_back(n); }}};
  longer.add({&more, 1});
  longer.train();
  CHECK(told == std::vector<index_t>{512, 768, 1024});
}

TEST_CASE("options that make no sense are one sentence") {
  CHECK(
      bpe_options{.vocab = 261}.check().message() ==
      "tokenizer: a vocabulary of 261 is asked for, expected 262 to 1073741823: 256 bytes, 6 special tokens "
      "and what is learned");
  CHECK(bpe_options{.vocab = 262}.check().good());
  CHECK(bpe_options{.special_tokens = {"<a>", "<a>"}}.check().message() ==
        "tokenizer: special token 1 is \"<a>\" for the second time, expected distinct texts");
  CHECK(bpe_options{.special_tokens = {""}}.check().message() ==
        "tokenizer: special token 0 is empty, expected distinct texts");
  for (const std::string letters : {"Ġ", "a", "é"})
    CHECK(bpe_options{.special_tokens = {letters}}.check().message() ==
          "tokenizer: special token \"" + letters +
              "\" is spelled with letters that stand for bytes, expected a text of its own");
}
