// SPDX-License-Identifier: MIT
// What a byte-level BPE tokenizer is: the contents of a tokenizer.json as plain values.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>
#include <dsv3/text/utf8.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// A token of the model's vocabulary. `literal`: the file holds these bytes as they are instead of spelling
/// them in the byte alphabet; merges never make such a token, it is usually an added token's.
struct vocabulary_token {
  std::string bytes;
  bool literal = false;

  bool operator==(const vocabulary_token&) const = default;
};

/// What becomes of the matches of a pattern and of the text between them.
enum class split_behaviour {
  isolated,              // every match is a piece, and so is every gap
  removed,               // the gaps are pieces, the matches vanish
  merged_with_previous,  // a match ends the gap before it
  merged_with_next,      // a match begins the gap after it
  contiguous             // matches that touch are one piece
};

/// Cuts every piece at the matches of a pattern. `regex`: Oniguruma's syntax as in pattern.hpp, otherwise the
/// pattern is plain text. `invert`: the gaps count as matches and the matches as gaps.
struct split_rule {
  std::string pattern;
  bool regex = true;
  split_behaviour behaviour = split_behaviour::isolated;
  bool invert = false;

  bool operator==(const split_rule&) const = default;
};

/// Cuts numbers off, whole or digit by digit.
struct digits_rule {
  bool individual = false;

  bool operator==(const digits_rule&) const = default;
};

/// The last rule: pieces become bytes. `trim_offsets` concerns only positions, which are not computed here.
struct byte_level_rule {
  bool add_prefix_space = false;
  bool use_regex = false;
  bool trim_offsets = true;

  bool operator==(const byte_level_rule&) const = default;
};

/// A piece of text that is one token wherever it stands. `normalized` ones are looked for after the others.
/// `lstrip`, `rstrip`: white space on that side belongs to it. `single_word`: not beside a letter or digit.
struct added_token {
  std::int32_t id = 0;
  std::string content;
  bool special = true, normalized = false, lstrip = false, rstrip = false, single_word = false;

  bool operator==(const added_token&) const = default;
};

/// Token ids are positions in `vocabulary`, followed by the added tokens that are not in it.
struct tokenizer_definition {
  std::vector<vocabulary_token> vocabulary;
  std::vector<std::pair<std::int32_t, std::int32_t>> merges;  // the earlier, the sooner
  bool ignore_merges = false;                                 // a piece that is a token is that token
  std::string unknown_token;  // named by some files; with all 256 bytes present nothing is unknown
  std::vector<std::variant<split_rule, digits_rule>> splits;
  byte_level_rule byte_level;
  std::vector<added_token> added_tokens;
  std::vector<std::int32_t> before, after;  // what the post-processor puts around a text

  bool operator==(const tokenizer_definition&) const = default;

  /// Ids lie in [0, count()).
  std::int32_t count() const {
    auto ids = static_cast<std::int32_t>(vocabulary.size());
    for (const added_token& token : added_tokens) ids = std::max(ids, token.id + 1);
    return ids;
  }

  /// Says what contradicts itself: a byte without a token, a merge whose result is none, an id given twice.
  status check() const {
    if (const status words = check_vocabulary(); !words) return words;
    for (std::size_t i = 0; i < splits.size(); ++i)
      if (const auto* split = std::get_if<split_rule>(&splits[i]);
          split != nullptr && !is_utf8(split->pattern))
        return status{"split " + std::to_string(i) + ": the pattern is not UTF-8"};
    std::set<std::int32_t> ids;
    std::set<std::string_view> contents;
    auto next = static_cast<std::int32_t>(vocabulary.size());
    for (std::size_t i = 0; i < added_tokens.size(); ++i) {
      const added_token& token = added_tokens[i];
      const std::string where = "added_tokens[" + std::to_string(i) + "]";
      if (token.content.empty()) return status{where + ": content is empty, expected at least one character"};
      if (!is_utf8(token.content)) return status{where + ": content is not UTF-8"};
      if (!contents.insert(token.content).second)
        return status{where + ": content \"" + token.content + "\" found twice, expected distinct contents"};
      if (!ids.insert(token.id).second)
        return status{where + ": id " + std::to_string(token.id) + " found twice, expected distinct ids"};
      if (token.id >= 0 && static_cast<std::size_t>(token.id) < vocabulary.size()) {
        const auto& word = vocabulary[static_cast<std::size_t>(token.id)];
        if (word.bytes != token.content)
          return status{where + ": content \"" + token.content + "\" has id " + std::to_string(token.id) +
                        ", which is another token in the vocabulary"};
      } else if (token.id != next++) {
        return status{where + ": id is " + std::to_string(token.id) + ", expected " +
                      std::to_string(next - 1) + ": ids outside the vocabulary follow it without a gap"};
      }
    }
    for (const auto* frame : {&before, &after})
      for (const std::int32_t id : *frame)
        if (id < 0 || id >= count())
          return status{"post_processor: id " + std::to_string(id) + " found, expected 0 to " +
                        std::to_string(count() - 1)};
    return {};
  }

 private:
  static bool is_utf8(std::string_view text) { return utf8_valid_prefix(text) == text.size(); }

  status check_vocabulary() const {
    if (vocabulary.size() > 0x3FFFFFFF) return status{"vocab has more than 2^30 tokens"};
    std::map<std::string_view, std::int32_t> spelled, literal;
    for (std::size_t id = 0; id < vocabulary.size(); ++id) {
      const auto& [bytes, is_literal] = vocabulary[id];
      if (bytes.empty()) return status{"vocab: token " + std::to_string(id) + " is empty"};
      if (is_literal && !is_utf8(bytes))
        return status{"vocab: token " + std::to_string(id) + " is not UTF-8"};
      const auto [found, is_first] =
          (is_literal ? literal : spelled).emplace(bytes, static_cast<std::int32_t>(id));
      if (!is_first)
        return status{"vocab: tokens " + std::to_string(found->second) + " and " + std::to_string(id) +
                      " are the same bytes, expected distinct tokens"};
    }
    for (int byte = 0; byte < 256; ++byte)
      if (const char letter = static_cast<char>(byte); !spelled.contains(std::string_view(&letter, 1)))
        return status{"vocab: byte " + std::to_string(byte) + " is no token, expected all 256 bytes"};
    for (std::size_t i = 0; i < merges.size(); ++i) {
      const auto [left, right] = merges[i];
      const std::string where = "merges[" + std::to_string(i) + "]";
      for (const std::int32_t id : {left, right}) {
        if (id < 0 || static_cast<std::size_t>(id) >= vocabulary.size())
          return status{where + ": id " + std::to_string(id) + " found, expected 0 to " +
                        std::to_string(vocabulary.size() - 1)};
        if (vocabulary[static_cast<std::size_t>(id)].literal)
          return status{where + ": token " + std::to_string(id) + " is not spelled in the byte alphabet"};
      }
      const std::string whole = vocabulary[static_cast<std::size_t>(left)].bytes +
                                vocabulary[static_cast<std::size_t>(right)].bytes;
      if (!spelled.contains(whole))
        return status{where + ": tokens " + std::to_string(left) + " and " + std::to_string(right) +
                      " together are no token of the vocabulary"};
    }
    return {};
  }
};

/// How DeepSeek-V3 cuts a text before its merges: numbers by three digits, runs of Chinese and Japanese,
/// then words, punctuation and white space.
inline std::vector<std::variant<split_rule, digits_rule>> deepseek_v3_splits() {
  return {
      split_rule{R"(\p{N}{1,3})"}, split_rule{"[一-龥぀-ゟ゠-ヿ]+"},
      split_rule{R"re([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)re"
                 R"re(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re"}};
}

/// The pattern of ByteLevel with use_regex, which is GPT-2's.
inline constexpr const char* byte_level_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace dsv3::inline DSV3_ABI
