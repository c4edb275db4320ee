// SPDX-License-Identifier: MIT
// Finds added tokens in a text: of those that begin first, the longest.
#pragma once

#include <dsv3/text/pattern.hpp>
#include <dsv3/text/tokenizer_definition.hpp>
#include <dsv3/text/utf8.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// A trie over the bytes of the tokens. The tokens must outlive it.
class added_token_matcher {
 public:
  void add(const added_token& token) {
    std::uint32_t node = 0;
    for (const char byte : token.content) {
      const auto [step, is_first] =
          steps_.try_emplace(key(node, byte), static_cast<std::uint32_t>(ends_.size()));
      if (is_first) ends_.push_back(nullptr);
      node = step->second;
    }
    ends_[node] = &token;
    begins_[static_cast<unsigned char>(token.content.front())] = true;
    if (token.single_word && !word_) word_.emplace(R"((?![²³¹¼-¾])[\w\x{200c}\x{200d}])");
  }

  /// Calls visit(piece, token) for the text in order: `token` is null for what lies between tokens. Token
  /// pieces include the white space that lstrip and rstrip claim.
  template <class Visit>
  void split(std::string_view text, pattern_scratch& scratch, Visit&& visit) const {
    constexpr const added_token* none = nullptr;
    std::size_t covered = 0, at = 0;
    while (ends_.size() > 1 && at < text.size()) {
      const added_token* token = longest_at(text, at);
      if (token == nullptr) {
        ++at;
        continue;
      }
      std::size_t begin = at, end = at + token->content.size();
      at = end;  // what rstrip takes is looked through again
      if (token->single_word && !stands_alone(text, {begin, end}, scratch)) continue;
      if (token->lstrip) begin = std::max(spaces_begin(text.substr(0, begin)), covered);
      if (token->rstrip) end = spaces_end(text, end);
      if (covered < begin) visit(text.substr(covered, begin - covered), none);
      visit(text.substr(begin, end - begin), token);
      covered = end;
    }
    if (covered < text.size()) visit(text.substr(covered), none);
  }

 private:
  static std::uint64_t key(std::uint32_t node, char byte) {
    return std::uint64_t{node} << 8 | static_cast<unsigned char>(byte);
  }

  const added_token* longest_at(std::string_view text, std::size_t at) const {
    if (!begins_[static_cast<unsigned char>(text[at])]) return nullptr;
    const added_token* longest = nullptr;
    std::uint32_t node = 0;
    for (; at < text.size(); ++at) {
      const auto step = steps_.find(key(node, text[at]));
      if (step == steps_.end()) break;
      node = step->second;
      if (ends_[node] != nullptr) longest = ends_[node];
    }
    return longest;
  }

  /// Neither of the neighbours is a letter, mark, digit, connector or joiner.
  bool stands_alone(std::string_view text, text_range place, pattern_scratch& scratch) const {
    const auto is_word = [&](std::string_view rest) {
      const utf8_sequence next = utf8_at(rest);
      return next.valid && word_->find(rest.substr(0, next.length), 0, scratch).has_value();
    };
    const std::string_view left = text.substr(0, place.begin), right = text.substr(place.end);
    return (left.empty() || !is_word(left.substr(utf8_last(left)))) && (right.empty() || !is_word(right));
  }

  static std::size_t spaces_begin(std::string_view text) {
    while (!text.empty()) {
      const std::size_t last = utf8_last(text);
      const utf8_sequence found = utf8_at(text.substr(last));
      if (!found.valid || !unicode_space(found.code)) break;
      text = text.substr(0, last);
    }
    return text.size();
  }
  static std::size_t spaces_end(std::string_view text, std::size_t at) {
    while (at < text.size()) {
      const utf8_sequence found = utf8_at(text.substr(at));
      if (!found.valid || !unicode_space(found.code)) break;
      at += found.length;
    }
    return at;
  }

  std::unordered_map<std::uint64_t, std::uint32_t> steps_;  // (node, byte) -> node
  std::vector<const added_token*> ends_{nullptr};           // the token that ends at a node
  std::array<bool, 256> begins_{};                          // the bytes with which tokens begin
  std::optional<pattern> word_;
};

}  // namespace dsv3::inline DSV3_ABI
