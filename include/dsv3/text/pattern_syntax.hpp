// SPDX-License-Identifier: MIT
// Regular expressions of tokenizer files are in Oniguruma's syntax; here they become PCRE2's, with the same
// matches.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <dsv3/base/error.hpp>
#include <dsv3/text/unicode_additions.hpp>
#include <dsv3/text/utf8.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

namespace detail {

/// One pass over a pattern. What both engines read alike is copied; what they read differently is spelled
/// out (white space and words as ranges, {,n}, {n}?, {n,m}+, scripts, nested classes); the rest is refused.
class pattern_translation {
 public:
  explicit pattern_translation(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (at_ < pattern_.size()) item();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    raise(what + " at byte " + std::to_string(at_) + " is not supported");
  }
  bool ahead(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  char peek(std::size_t further = 0) const {
    return at_ + further < pattern_.size() ? pattern_[at_ + further] : '\0';
  }
  static bool digit(char c) { return c >= '0' && c <= '9'; }
  static bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

  void copy(std::size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }
  void copy_character() { copy(utf8_at(pattern_.substr(at_)).length); }

  void item() {
    switch (peek()) {
      case '(':
        return open();
      case ')':
        atom_ = groups_.empty() ? out_.size() : groups_.back();
        if (!groups_.empty()) groups_.pop_back();
        return copy(1);
      case '[':
        atom_ = out_.size();
        return bracket();
      case '{':
        return interval();
      case '\\':
        atom_ = out_.size();
        return escape();
      case '*':
      case '+':
      case '?':
      case '|':
        return copy(1);
      default:
        atom_ = out_.size();
        return copy_character();
    }
  }

  void open() {
    groups_.push_back(out_.size());
    if (ahead("(*")) refuse("\"(*\"");
    if (!ahead("(?")) return copy(1);
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"})
      if (ahead(known)) return copy(known.size());
    // Options; Oniguruma's m is PCRE2's s.
    const bool leads = at_ == 0 || pattern_[at_ - 1] == '(' || pattern_[at_ - 1] == ':';
    std::string options = "(?";
    std::size_t length = 2;
    for (; peek(length) == 'i' || peek(length) == 'm' || peek(length) == '-'; ++length)
      options += peek(length) == 'm' ? 's' : peek(length);
    // Without a colon Oniguruma groups all alternatives that follow; that is the same only at the start.
    const bool rest = peek(length) == ')' && leads;
    if (length == 2 || (peek(length) != ':' && !rest)) refuse("group \"(?" + next_characters(2) + "\"");
    out_ += options + peek(length);
    at_ += length + 1;
    if (rest) groups_.pop_back();
  }

  void interval() {
    std::size_t length = 1;
    const auto digits = [&] {
      const std::size_t begin = length;
      while (digit(peek(length))) ++length;
      return length - begin;
    };
    const std::size_t low = digits();
    const bool comma = peek(length) == ',';
    const std::size_t high = comma ? (++length, digits()) : 0;
    if (peek(length) != '}' || low + high == 0) {  // a brace like any other character
      atom_ = out_.size();
      out_ += "\\{";
      ++at_;
      return;
    }
    ++length;
    if (low == 0) {
      out_ += "{0";
      ++at_, --length;
    }
    copy(length);
    // Only intervals: in Oniguruma these two repeat what stands before them.
    if (peek() == '+' || (peek() == '?' && !comma)) {
      out_.insert(atom_, "(?:");
      out_ += ')';
      copy(1);
    }
  }

  void bracket() {
    out_ += '[';
    ++at_;
    if (peek() == '^') copy(1);
    bool after_set = false;
    for (std::size_t depth = 1; at_ < pattern_.size();) {
      const char c = peek();
      if (c == ']') {
        ++at_, after_set = true;
        if (--depth == 0) break;
      } else if (c == '[') {  // a union, which is the same flat
        if (peek(1) == '^' || peek(1) == ':') refuse("class \"[" + next_characters(1) + "\" inside a class");
        ++at_, ++depth;
      } else if (ahead("&&")) {
        refuse("intersection \"&&\" of classes");
      } else if (c == '\\') {
        after_set = class_escape();
      } else if (c == '-') {
        const bool range = !after_set && peek(1) != ']' && peek(1) != '[' &&
                           !(peek(1) == '\\' && std::string_view("sSdDwWhHpP").find(peek(2)) != npos);
        out_ += range ? "-" : "\\-";
        ++at_, after_set = false;
      } else {
        copy_character();
        after_set = false;
      }
    }
    out_ += ']';
  }

  /// True when it stands for a set of characters.
  bool class_escape() {
    const char kind = peek(1);
    if (kind == 'S') {
      at_ += 2, out_ += not_space;
      return true;
    }
    const std::size_t begin = at_;
    if (const std::string set = escaped_set(); !set.empty()) {
      if (negated_) at_ = begin, refuse("a negated set inside a class");
      out_ += set;
      return true;
    }
    if (kind == 'b') {
      at_ += 2, out_ += "\\x08";
    } else {
      character_escape();
    }
    return false;
  }

  void escape() {
    if (const std::string set = escaped_set(); !set.empty()) {
      out_ += (negated_ ? "[^" : "[") + set + "]";
      return;
    }
    const char kind = peek(1);
    if (kind == 'b' || kind == 'B') {
      const std::string in = "[" + word() + "]";
      const std::string same = kind == 'b' ? "!" : "=", other = kind == 'b' ? "=" : "!";
      out_ += "(?:(?<=" + in + ")(?" + same + in + ")|(?<!" + in + ")(?" + other + in + "))";
      at_ += 2;
    } else if (kind == 'A' || kind == 'z' || kind == 'Z' || (kind >= '1' && kind <= '9')) {
      copy(2);
    } else {
      character_escape();
    }
  }

  /// An escape that stands for one character.
  void character_escape() {
    const char kind = peek(1);
    if (kind == 'v') {
      at_ += 2, out_ += "\\x0b";
    } else if (kind == 'u') {
      out_ += "\\x{" + std::string(pattern_.substr(at_ + 2, 4)) + "}";
      at_ = std::min(at_ + 6, pattern_.size());
    } else if (letter(kind) && std::string_view("nrtfaex").find(kind) == npos) {
      refuse("escape \"\\" + std::string(1, kind) + "\"");
    } else {
      copy(1);
      if (at_ < pattern_.size()) copy_character();
    }
  }

  /// The members of \s, \d, \w, \h, \p{...} as they are written inside a class; empty for other escapes.
  std::string escaped_set() {
    const char kind = peek(1);
    negated_ = kind >= 'A' && kind <= 'Z';
    std::string set;
    switch (kind) {
      case 's':
      case 'S':
        set = space;
        break;
      case 'd':
      case 'D':
        set = category("Nd");
        break;
      case 'w':
      case 'W':
        set = word();
        break;
      case 'h':
      case 'H':
        set = "0-9a-fA-F";
        break;
      case 'p':
      case 'P':
        return property();
      default:
        return {};
    }
    at_ += 2;
    return set;
  }

  std::string property() {
    const std::size_t end = pattern_.find('}', at_);
    if (peek(2) != '{' || end == npos) refuse("a property without braces");
    std::string_view name = pattern_.substr(at_ + 3, end - at_ - 3);
    if (name.starts_with('^')) {
      negated_ = !negated_;
      name.remove_prefix(1);
    }
    for (const char c : name)
      if (!letter(c) && c != '_') refuse("property \"" + std::string(name.substr(0, 40)) + "\"");
    std::string set;
    static constexpr std::string_view long_names[][2] = {
        {"Letter", "L"}, {"Mark", "M"}, {"Number", "N"}, {"Punctuation", "P"}, {"Symbol", "S"}};
    for (const auto& [longer, brief] : long_names)
      if (name == longer) name = brief;
    if (name.size() <= 2) {
      set = category(name);
    } else {
      // PCRE2's bare script names also match characters that several scripts share.
      const std::string kind = PCRE2_MAJOR > 10 || PCRE2_MINOR >= 40 ? "sc:" : "";
      set = "\\p{" + kind + std::string(name) + "}";
      if (name == "Han")
        for (const unicode_range& range : han_additions) set += spelled(range);
    }
    at_ = end + 1;
    return set;
  }

  static std::string spelled(const unicode_range& range) {
    char text[40];
    const int length = std::snprintf(text, sizeof text, "\\x{%x}-\\x{%x}", range.first, range.last);
    return {text, static_cast<std::size_t>(length)};
  }
  static std::string category(std::string_view name) {
    std::string set = "\\p{" + std::string(name) + "}";
    for (const unicode_range& range : unicode_additions)
      if (std::string_view(range.category).starts_with(name)) set += spelled(range);
    return set;
  }
  // Unicode's Alphabetic, marks, decimal digits, connectors; and Latin-1's superscripts and fractions.
  static std::string word() {
    return category("L") + category("M") + category("Nd") + category("Nl") + category("Pc") +
           "\\xb2\\xb3\\xb9\\xbc-\\xbe\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}"
           "-\\x{1f189}";
  }
  std::string next_characters(std::size_t further) const {
    return at_ + further < pattern_.size() && static_cast<signed char>(pattern_[at_ + further]) > 0
               ? std::string(1, pattern_[at_ + further])
               : std::string();
  }

  static constexpr std::size_t npos = std::string_view::npos;
  static constexpr const char* space =
      R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
  static constexpr const char* not_space =
      R"(\x{0}-\x08\x0e-\x1f\x21-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
      R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

  std::string_view pattern_;
  std::size_t at_ = 0;
  std::string out_;
  std::size_t atom_ = 0;             // where in `out_` the last item that can be repeated begins
  std::vector<std::size_t> groups_;  // where those begin that are open
  bool negated_ = false;             // of the last escaped set
};

}  // namespace detail

/// The pattern in PCRE2's syntax (with UTF, UCP, MULTILINE and newline LF). Raises where a construct has no
/// counterpart: `class "[^" inside a class at byte 7 is not supported`.
inline std::string pcre2_syntax(std::string_view oniguruma) {
  return detail::pattern_translation{oniguruma}.run();
}

}  // namespace dsv3::inline DSV3_ABI
