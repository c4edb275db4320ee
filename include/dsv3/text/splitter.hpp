// SPDX-License-Identifier: MIT
// The pre-tokenizer: cuts a text into the pieces inside which merges happen.
#pragma once

#include <dsv3/text/pattern.hpp>
#include <dsv3/text/tokenizer_definition.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// The rules of a definition, compiled. Pieces are handed on as they are found; nothing is kept of a text.
class splitter {
 public:
  explicit splitter(const tokenizer_definition& definition)
      : add_prefix_space_(definition.byte_level.add_prefix_space) {
    for (const auto& rule : definition.splits) {
      if (const auto* split = std::get_if<split_rule>(&rule)) {
        const auto kind = split->regex ? pattern::kind::regex : pattern::kind::literal;
        stages_.push_back({pattern{split->pattern, kind}, split->behaviour, split->invert});
      } else {
        const bool each = std::get<digits_rule>(rule).individual;
        // Digits asks the library's language, which knows Unicode 17; its expressions know Unicode 16.
        stages_.push_back({pattern{R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])"},
                           each ? split_behaviour::isolated : split_behaviour::contiguous, false});
      }
    }
    last_rule_ = stages_.size();
    if (definition.byte_level.use_regex)
      stages_.push_back({pattern{byte_level_pattern}, split_behaviour::isolated, false});
  }

  /// Calls piece(bytes) for every piece of `text` in order. Bytes that are not UTF-8 are pieces one by one.
  template <class Piece>
  void split(std::string_view text, pattern_scratch& scratch, Piece&& piece) const {
    bool first = true;
    while (!text.empty()) {
      const std::size_t valid = utf8_valid_prefix(text);
      if (valid > 0) pass(0, text.substr(0, valid), first && add_prefix_space_, scratch, piece);
      if (valid < text.size()) piece(text.substr(valid, 1));
      text.remove_prefix(std::min(text.size(), valid + 1));
      first = false;
    }
  }

 private:
  struct stage {
    pattern what;
    split_behaviour behaviour;
    bool invert;
  };

  /// A piece that has come through the stages before `index`.
  template <class Piece>
  void pass(std::size_t index, std::string_view text, bool prefix, pattern_scratch& scratch,
            Piece& piece) const {
    if (text.empty()) return;
    if (index == last_rule_ && prefix && text.front() != ' ') {
      const std::string spaced = " " + std::string(text);
      return pass(index, spaced, false, scratch, piece);
    }
    if (index == stages_.size()) return piece(text);
    const stage& here = stages_[index];
    const auto hand_on = [&](text_range range) {
      pass(index + 1, text.substr(range.begin, range.end - range.begin), prefix, scratch, piece);
    };
    bool held = false,
         held_match = false;  // a piece that may still grow, and whether a match is its last part
    text_range hold;
    for_each_match(here.what, text, scratch, [&](text_range range, bool found) {
      const bool match = found != here.invert;
      switch (here.behaviour) {
        case split_behaviour::isolated:
          return hand_on(range);
        case split_behaviour::removed:
          if (!match) hand_on(range);
          return;
        default:
          break;
      }
      const bool joins = here.behaviour == split_behaviour::contiguous             ? match == held_match
                         : here.behaviour == split_behaviour::merged_with_previous ? match && !held_match
                                                                                   : !match && held_match;
      if (held && joins) {
        hold.end = range.end;
      } else {
        if (held) hand_on(hold);
        hold = range, held = true;
      }
      held_match = match;
    });
    if (held) hand_on(hold);
  }

  std::vector<stage> stages_;
  std::size_t last_rule_ = 0;  // stages before it are the definition's, one after it is ByteLevel's
  bool add_prefix_space_;
};

}  // namespace dsv3::inline DSV3_ABI
