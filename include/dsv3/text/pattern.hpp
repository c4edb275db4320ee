// SPDX-License-Identifier: MIT
// A compiled regular expression (PCRE2) that finds its matches in UTF-8 text.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/io/json.hpp>
#include <dsv3/text/pattern_syntax.hpp>  // includes pcre2.h for 8-bit text

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace dsv3::inline DSV3_ABI {

/// Bytes [begin, end) of a text.
struct text_range {
  std::size_t begin = 0, end = 0;
  bool operator==(const text_range&) const = default;
};

/// What matching writes to. One for each thread; it serves every pattern.
class pattern_scratch {
 public:
  pattern_scratch()
      : match_(pcre2_match_data_create_8(1, nullptr)), context_(pcre2_match_context_create_8(nullptr)) {
    if (match_ == nullptr || context_ == nullptr) raise("pattern: no memory to match with");
  }

 private:
  friend class pattern;
  template <auto Free>
  struct release {
    template <class T>
    void operator()(T* object) const {
      Free(object);
    }
  };

  /// Matching that needs more than the 32 KiB every match has; takes address space, memory as it is used.
  void deepen() {
    stack_.reset(pcre2_jit_stack_create_8(1 << 16, std::size_t{1} << 28, nullptr));
    if (stack_ == nullptr) raise("pattern: no memory for a deep match");
    pcre2_jit_stack_assign_8(context_.get(), nullptr, stack_.get());
  }

  std::unique_ptr<pcre2_match_data_8, release<pcre2_match_data_free_8>> match_;
  std::unique_ptr<pcre2_match_context_8, release<pcre2_match_context_free_8>> context_;
  std::unique_ptr<pcre2_jit_stack_8, release<pcre2_jit_stack_free_8>> stack_;
};

/// Immutable; copies share the compiled code.
class pattern {
 public:
  enum class kind { regex, literal };

  /// A regular expression as Oniguruma reads it, or the text itself. Raises one sentence with the reason.
  explicit pattern(std::string_view text, kind what = kind::regex)
      : name_("pattern \"" + detail::shortened(std::string(text)) + "\"") {
    std::string syntax{text};
    std::uint32_t options = PCRE2_UTF | PCRE2_LITERAL;
    if (what == kind::regex) {
      const status translated = attempt([&] { syntax = pcre2_syntax(text); });
      if (!translated) raise(name_ + ": " + translated.message());
      options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE;
    }
    const std::unique_ptr<pcre2_compile_context_8, decltype(&pcre2_compile_context_free_8)> context{
        pcre2_compile_context_create_8(nullptr), pcre2_compile_context_free_8};
    if (context == nullptr) raise(name_ + ": no memory to compile it");
    pcre2_set_newline_8(context.get(), PCRE2_NEWLINE_LF);
    int number = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(syntax.data()), syntax.size(), options, &number,
                                &offset, context.get()),
                pcre2_code_free_8);
    if (code_ == nullptr)
      raise(name_ + ": PCRE2 refuses it at byte " + std::to_string(offset) + " of \"" +
            detail::shortened(syntax) + "\": " + reason(number));
    compiled_ = pcre2_jit_compile_8(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  }

  /// The first match in `text`, which is UTF-8, that begins at `from` or later.
  std::optional<text_range> find(std::string_view text, std::size_t from, pattern_scratch& scratch) const {
    int found = match(text, from, scratch);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT && scratch.stack_ == nullptr) {
      scratch.deepen();
      found = match(text, from, scratch);
    }
    if (found == PCRE2_ERROR_NOMATCH) return {};
    if (found < 0) raise(name_ + ": matching failed: " + reason(found));
    const PCRE2_SIZE* place = pcre2_get_ovector_pointer_8(scratch.match_.get());
    return text_range{place[0], place[1]};
  }

 private:
  int match(std::string_view text, std::size_t from, pattern_scratch& scratch) const {
    const auto subject = reinterpret_cast<PCRE2_SPTR8>(text.data());
    if (compiled_)
      return pcre2_jit_match_8(code_.get(), subject, text.size(), from, 0, scratch.match_.get(),
                               scratch.context_.get());
    return pcre2_match_8(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK, scratch.match_.get(),
                         scratch.context_.get());
  }

  static std::string reason(int number) {
    PCRE2_UCHAR8 text[256] = {};
    pcre2_get_error_message_8(number, text, sizeof text);
    return reinterpret_cast<const char*>(text);
  }

  std::string name_;
  std::shared_ptr<pcre2_code_8> code_;
  bool compiled_ = false;  // to machine code; where the platform has none, PCRE2 interprets
};

/// Calls visit(range, is_match) for the matches of a pattern and the gaps between them, in order; together
/// they cover `text`. An empty match directly after a match does not count.
template <class Visit>
void for_each_match(const pattern& what, std::string_view text, pattern_scratch& scratch, Visit&& visit) {
  std::size_t from = 0, covered = 0;
  bool matched = false;
  while (from <= text.size()) {
    const std::optional<text_range> found = what.find(text, from, scratch);
    if (!found) break;
    if (found->begin == found->end && matched && found->end == covered) {
      from += from < text.size() ? utf8_at(text.substr(from)).length : 1;
      continue;
    }
    if (covered != found->begin) visit(text_range{covered, found->begin}, false);
    visit(*found, true);
    from = covered = found->end;
    matched = true;
  }
  if (covered != text.size()) visit(text_range{covered, text.size()}, false);
}

}  // namespace dsv3::inline DSV3_ABI
