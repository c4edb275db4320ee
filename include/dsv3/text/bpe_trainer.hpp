// SPDX-License-Identifier: MIT
// Training byte-level BPE: from texts to a tokenizer, on several threads, with the same result for any
// number.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/text/byte_alphabet.hpp>
#include <dsv3/text/pair_merges.hpp>
#include <dsv3/text/parallel_tasks.hpp>
#include <dsv3/text/splitter.hpp>
#include <dsv3/text/tokenizer_definition.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// What cuts texts into the words inside which pairs are joined.
enum class text_cutting {
  deepseek_v3,  // numbers by three digits, Chinese and Japanese, words, punctuation, white space
  gpt2          // GPT-2's one pattern
};

/// DeepSeek-V3's names of the tokens that mark documents and their middles, in the order of their ids.
inline std::vector<std::string> deepseek_v3_special_tokens() {
  return {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>",
          "<｜fim▁begin｜>",         "<｜fim▁hole｜>",        "<｜fim▁end｜>"};
}

struct bpe_options {
  index_t vocab = 32768;  // special tokens and the 256 bytes included
  text_cutting cutting = text_cutting::deepseek_v3;
  std::vector<std::string> special_tokens = deepseek_v3_special_tokens();  // ids from 0 on
  index_t min_frequency = 2;                                               // of a pair, so that it is joined
  int threads = 1;
  /// Called by the calling thread with the number of tokens, every 256.
  std::function<void(index_t)> progress = nullptr;

  status check() const {
    const auto least = static_cast<index_t>(special_tokens.size()) + 256;
    if (vocab < least || vocab > 0x3FFFFFFF)
      return status{"tokenizer: a vocabulary of " + std::to_string(vocab) + " is asked for, expected " +
                    std::to_string(least) + " to 1073741823: 256 bytes, " +
                    std::to_string(special_tokens.size()) + " special tokens and what is learned"};
    for (std::size_t i = 0; i < special_tokens.size(); ++i) {
      const std::string& token = special_tokens[i];
      const auto end = special_tokens.begin() + static_cast<std::ptrdiff_t>(i);
      if (token.empty() || std::find(special_tokens.begin(), end, token) != end)
        return status{"tokenizer: special token " + std::to_string(i) +
                      (token.empty() ? " is empty" : " is \"" + token + "\" for the second time") +
                      ", expected distinct texts"};
      const std::string read = byte_alphabet::read(token).value_or(token);
      if (token.size() == 1 || read != token)
        return status{"tokenizer: special token \"" + token +
                      "\" is spelled with letters that stand for bytes, expected a text of its own"};
    }
    return {};
  }
};

namespace detail {

/// How often each word appears.
struct word_counts {
  struct text_hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  std::unordered_map<std::string, index_t, text_hash, std::equal_to<>> counts;

  void add(std::string_view word) {
    const auto found = counts.find(word);
    if (found == counts.end())
      counts.emplace(word, 1);
    else
      ++found->second;
  }
  void take(word_counts& other) {
    for (const auto& [word, count] : other.counts) counts[word] += count;
    other.counts.clear();
  }
};

/// Cuts a text into stretches of about `size` bytes or more, where no word of either cutting can stand across
/// the place: a word never goes on with a space after a letter or digit.
inline void append_stretches(std::string_view text, std::size_t size,
                             std::vector<std::string_view>& stretches) {
  const auto plain = [](char letter) {
    return (letter >= '0' && letter <= '9') || (letter >= 'A' && letter <= 'Z') ||
           (letter >= 'a' && letter <= 'z');
  };
  while (text.size() > size) {
    std::size_t end = size;
    while (end < text.size() && !(text[end] == ' ' && plain(text[end - 1]))) ++end;
    stretches.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  if (!text.empty()) stretches.push_back(text);
}

}  // namespace detail

/// Counts the words of texts as they come, then learns from the counts. Memory is that of the distinct words.
///
///     bpe_trainer trainer{{.vocab = 32768, .threads = 2}};
///     trainer.add(texts);                              // as often as there are more
///     write_tokenizer("tokenizer.json", trainer.train());
class bpe_trainer {
 public:
  explicit bpe_trainer(bpe_options options)
      : options_(std::move(options)), empty_(before_training(options_)), splitter_(empty_) {}

  /// Texts of which no word stands across two. Special tokens in them are text like any other.
  void add(std::span<const std::string_view> texts) {
    std::vector<std::string_view> stretches;
    for (const std::string_view text : texts) detail::append_stretches(text, std::size_t{1} << 20, stretches);
    const auto slots = static_cast<std::size_t>(std::max(options_.threads, 1));
    std::vector<detail::word_counts> counts(slots);
    std::vector<pattern_scratch> scratch(slots);
    parallel_tasks(options_.threads, static_cast<index_t>(stretches.size()), [&](index_t slot, index_t s) {
      const auto at = static_cast<std::size_t>(slot);
      splitter_.split(stretches[static_cast<std::size_t>(s)], scratch[at],
                      [&](std::string_view word) { counts[at].add(word); });
    });
    for (detail::word_counts& part : counts) words_.take(part);
  }

  index_t distinct_words() const { return static_cast<index_t>(words_.counts.size()); }

  /// Learns from what was added so far. Where DeepSeek-V3's begin of a text is among the special tokens, the
  /// tokenizer puts it before what it encodes. Fewer tokens than asked for come out where the texts have no
  /// more pairs that are frequent enough.
  tokenizer_definition train() const {
    // Ids: the special tokens, the bytes by the code points of their letters, what is learned.
    std::vector<std::string> tokens = options_.special_tokens;
    std::array<std::uint32_t, 256> id_of_byte{};
    for (const std::int16_t byte : byte_alphabet::bytes) {
      if (byte < 0) continue;
      id_of_byte[static_cast<std::size_t>(byte)] = static_cast<std::uint32_t>(tokens.size());
      const char letter = static_cast<char>(byte);
      tokens.push_back(byte_alphabet::spelled({&letter, 1}));
    }
    learned_pairs learned = learn_pairs(ids_of_words(id_of_byte), std::move(tokens), options_.vocab,
                                        options_.min_frequency, options_.progress);

    tokenizer_definition definition = empty_;
    definition.merges = std::move(learned.merges);
    const std::size_t special = options_.special_tokens.size();
    for (std::size_t id = 0; id < learned.tokens.size(); ++id) {
      const std::string& token = learned.tokens[id];
      const std::optional<std::string> bytes = byte_alphabet::read(token);
      definition.vocabulary.push_back({bytes.value_or(token), !bytes});
      if (id < special)
        definition.added_tokens.push_back({.id = static_cast<std::int32_t>(id), .content = token});
      if (id < special && token == deepseek_v3_special_tokens()[0])
        definition.before = {static_cast<std::int32_t>(id)};
    }
    require(definition.check());
    return definition;
  }

 private:
  static tokenizer_definition before_training(const bpe_options& options) {
    require(options.check());
    tokenizer_definition definition;
    if (options.cutting == text_cutting::deepseek_v3) definition.splits = deepseek_v3_splits();
    definition.byte_level.use_regex = options.cutting == text_cutting::gpt2;
    return definition;
  }

  // In an order of their own, so that memory is walked alike for any number of threads.
  detail::word_ids ids_of_words(const std::array<std::uint32_t, 256>& id_of_byte) const {
    std::vector<std::pair<std::string_view, index_t>> ordered(words_.counts.begin(), words_.counts.end());
    std::sort(ordered.begin(), ordered.end());
    detail::word_ids ids;
    for (const auto& [word, count] : ordered)
      if (word.size() > 1) ids.add(word, count, id_of_byte);
    return ids;
  }

  bpe_options options_;
  tokenizer_definition empty_;
  splitter splitter_;
  detail::word_counts words_;
};

}  // namespace dsv3::inline DSV3_ABI
