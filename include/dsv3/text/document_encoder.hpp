// SPDX-License-Identifier: MIT
// A document as tokens: between the tokens that mark its beginning and end, told in order or with its middle
// last.
#pragma once

#include <dsv3/text/fill_in_middle.hpp>
#include <dsv3/text/tokenizer.hpp>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// What a tokenizer has to mark documents with, found by the names that published tokenizers give; -1 where
/// it has none.
struct document_marks {
  std::int32_t begin = -1, end = -1, fim_begin = -1, fim_hole = -1, fim_end = -1;

  explicit document_marks(const tokenizer& words)
      : begin(first_of(words,
                       {"<｜begin▁of▁sentence｜>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "<s>"})),
        end(first_of(words, {"<｜end▁of▁sentence｜>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "</s>"})),
        fim_begin(first_of(words, {"<｜fim▁begin｜>", "<|fim_prefix|>", "<fim_prefix>"})),
        fim_hole(first_of(words, {"<｜fim▁hole｜>", "<|fim_suffix|>", "<fim_suffix>"})),
        fim_end(first_of(words, {"<｜fim▁end｜>", "<|fim_middle|>", "<fim_middle>"})) {}

  /// Says what is missing for documents, or for documents with their middle last.
  status check(bool with_middles) const {
    if (end < 0)
      return status{
          "the tokenizer has no token that ends a document, expected <｜end▁of▁sentence｜>, "
          "<|end_of_text|>, <|endoftext|>, <eos> or </s>"};
    if (with_middles && (fim_begin < 0 || fim_hole < 0 || fim_end < 0))
      return status{
          "the tokenizer has no tokens for fill-in-the-middle, expected <｜fim▁begin｜>, "
          "<｜fim▁hole｜> and <｜fim▁end｜>"};
    return {};
  }

 private:
  static std::int32_t first_of(const tokenizer& words, std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names)
      if (const auto id = words.id_of(name); id && words.is_special(*id)) return *id;
    return -1;
  }
};

/// Encodes document after document; one for each thread. Special tokens in a document are text like any
/// other: nobody vouches for what documents hold.
class document_encoder {
 public:
  /// Raises what `document_marks::check` says.
  explicit document_encoder(const tokenizer& words, fill_in_middle fim = {})
      : marks_(words), fim_(fim), encoder_(words) {
    require(marks_.check(fim.rate > 0));
  }

  /// The tokens of a document in a pass, valid until the next call.
  const std::vector<std::int32_t>& encode(std::string_view text, index_t document = 0, index_t pass = 0) {
    ids_.clear();
    if (marks_.begin >= 0) ids_.push_back(marks_.begin);
    if (const auto parts = fim_.cut(text, document, pass)) {
      ids_.push_back(marks_.fim_begin);
      append(parts->prefix);
      ids_.push_back(marks_.fim_hole);
      append(parts->suffix);
      ids_.push_back(marks_.fim_end);
      append(parts->middle);
    } else {
      append(text);
    }
    ids_.push_back(marks_.end);
    return ids_;
  }

 private:
  void append(std::string_view text) { encoder_.encode(text, ids_, {.added_tokens = false}); }

  document_marks marks_;
  fill_in_middle fim_;
  tokenizer::encoder encoder_;
  std::vector<std::int32_t> ids_;
};

}  // namespace dsv3::inline DSV3_ABI
