// SPDX-License-Identifier: MIT
// Text from tokens as they come, never half a character.
#pragma once

#include <dsv3/text/tokenizer.hpp>
#include <dsv3/text/utf8.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace dsv3::inline DSV3_ABI {

/// What `push` and `finish` return, one after the other, is what `decode` returns for all ids at once. Bytes
/// that no code point begins with are handed on at once; at most three bytes wait for the rest of theirs.
///
///     detokenizer text{words};
///     for (const std::int32_t id : ids) std::cout << text.push(id) << std::flush;
///     std::cout << text.finish();
class detokenizer {
 public:
  explicit detokenizer(tokenizer words, decode_options options = {})
      : words_(std::move(words)), options_(options) {}

  /// The text that is complete with this token; valid until the next call. Raises where the id is none.
  std::string_view push(std::int32_t id) {
    const std::string_view bytes = words_.bytes_of(id);
    text_.erase(0, complete_);
    if (options_.special || !words_.is_special(id)) text_ += bytes;
    complete_ = text_.size() - utf8_cut_suffix(text_);
    return std::string_view(text_).substr(0, complete_);
  }

  /// The bytes still waiting, as they are; then it begins anew.
  std::string_view finish() {
    text_.erase(0, complete_);
    complete_ = text_.size();
    return text_;
  }

 private:
  tokenizer words_;
  decode_options options_;
  std::string text_;          // what was returned last, and what waits
  std::size_t complete_ = 0;  // bytes of it that were returned
};

}  // namespace dsv3::inline DSV3_ABI
