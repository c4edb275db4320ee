// SPDX-License-Identifier: MIT
// The smallest tokenizer: every byte is its own id.
#pragma once

#include <dsv3/text/tokenizer_definition.hpp>

#include <string>

namespace support {

inline dsv3::tokenizer_definition byte_tokenizer() {
  dsv3::tokenizer_definition definition;
  for (int byte = 0; byte < 256; ++byte)
    definition.vocabulary.push_back({std::string(1, static_cast<char>(byte))});
  return definition;
}

}  // namespace support
