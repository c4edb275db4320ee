// SPDX-License-Identifier: MIT
// A tokenizer as its file has it: what goes into checkpoints, and the checksum by which token files name it.
#pragma once

#include <dsv3/io/crc32c.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/text/byte_tokenizer.hpp>
#include <dsv3/text/tokenizer.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

namespace dsv3::inline DSV3_ABI {

/// Without a file: bytes are the tokens.
struct stored_tokenizer {
  tokenizer words{byte_tokenizer()};
  std::string json = tokenizer_json(byte_tokenizer());
  std::uint32_t sum = 0;  // CRC-32C of `json`; 0: bytes are the tokens

  bool bytes() const { return sum == 0; }

  /// A tokenizer.json, or a folder that contains one.
  static stored_tokenizer load(const std::string& path) {
    stored_tokenizer loaded;
    loaded.words = tokenizer::load(path);
    const std::filesystem::path file = path;
    loaded.json =
        mapped_file{(std::filesystem::is_directory(file) ? file / "tokenizer.json" : file).string()}.text();
    if (loaded.words.definition() != byte_tokenizer()) loaded.sum = crc32c_of(loaded.json);
    return loaded;
  }
};

}  // namespace dsv3::inline DSV3_ABI
