// SPDX-License-Identifier: MIT
// The tokenizer without merges: a token a byte.
#pragma once

#include <dsv3/text/token_documents.hpp>
#include <dsv3/text/tokenizer_definition.hpp>

#include <string>

namespace dsv3::inline DSV3_ABI {

/// Ids 0 to 255 are the bytes, then begin and end of a document as byte_tokens has them; a framed text begins
/// with the first. A model trained on bytes carries it as its tokenizer.json.
inline tokenizer_definition byte_tokenizer() {
  tokenizer_definition definition;
  for (int byte = 0; byte < 256; ++byte)
    definition.vocabulary.push_back({.bytes = std::string(1, static_cast<char>(byte)), .literal = false});
  definition.added_tokens = {{.id = byte_tokens::begin, .content = "<｜begin▁of▁sentence｜>"},
                             {.id = byte_tokens::end, .content = "<｜end▁of▁sentence｜>"}};
  definition.before = {byte_tokens::begin};
  return definition;
}

}  // namespace dsv3::inline DSV3_ABI
