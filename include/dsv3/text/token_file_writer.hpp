// SPDX-License-Identifier: MIT
// Writes files of tokens document by document: nothing but where the documents begin is held.
#pragma once

#include <dsv3/text/token_file.hpp>

#include <limits>
#include <span>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// The name decides the format: .dsv3tok, with two bytes a token where the vocabulary allows it, or llm.c's
/// .bin with four. Whole after `commit`, not there before.
///
///     token_file_writer file{"train.dsv3tok", vocab, tokenizer_sum};
///     for (...) file.add(ids);                 // a document, with whatever marks its beginning and end
///     file.commit();
class token_file_writer {
 public:
  token_file_writer(const std::string& path, index_t vocab, std::uint32_t tokenizer_sum)
      : file_(checked(path)), bin_(is_llm_c_file(path)), vocab_(vocab) {
    shard_.token_bytes = bin_ || vocab > 0x10000 ? 4 : 2;
    shard_.vocab = static_cast<std::uint64_t>(vocab);
    shard_.tokenizer_sum = tokenizer_sum;
    const std::vector<std::byte> room(bin_ ? sizeof(detail::bin_header) : sizeof(detail::shard_header));
    file_.append(room);
  }

  void add(std::span<const std::int32_t> document) {
    buffer_.clear();
    for (const std::int32_t id : document) {
      if (id < 0 || id >= vocab_)
        raise(file_.path() + ": token " + std::to_string(shard_.tokens) + " would be " + std::to_string(id) +
              ", expected an id from 0 to below " + std::to_string(vocab_));
      const auto* bytes = reinterpret_cast<const std::byte*>(&id);
      buffer_.insert(buffer_.end(), bytes, bytes + shard_.token_bytes);
      ++shard_.tokens;
    }
    append(buffer_);
    offsets_.push_back(shard_.tokens);
  }

  index_t tokens() const { return static_cast<index_t>(shard_.tokens); }
  index_t documents() const { return static_cast<index_t>(offsets_.size()) - 1; }

  void commit() {
    if (bin_) {
      constexpr std::uint64_t most = std::numeric_limits<std::int32_t>::max();
      if (shard_.tokens > most)
        raise(file_.path() + ": " + std::to_string(shard_.tokens) + " tokens, a .bin holds at most " +
              std::to_string(most) + ": write .dsv3tok or several files");
      detail::bin_header head = {};
      head.magic = detail::bin_header::wide_magic;
      head.version = detail::bin_header::wide_version;
      head.tokens = static_cast<std::int32_t>(shard_.tokens);
      file_.write_at(0, std::as_bytes(std::span(&head, 1)));
    } else {
      append(std::vector<std::byte>(shard_.offsets_at() - file_.size()));
      append(std::as_bytes(std::span(offsets_)));
      shard_.documents = offsets_.size() - 1;
      shard_.body_sum = sum_.value();
      shard_.header_sum = shard_.sum();
      file_.write_at(0, std::as_bytes(std::span(&shard_, 1)));
    }
    file_.commit();
  }

 private:
  static const std::string& checked(const std::string& path) {
    if (!is_token_file(path))
      raise(path + ": found no name of a token file, expected one in .bin or .dsv3tok");
    return path;
  }
  void append(std::span<const std::byte> bytes) {
    sum_.update(bytes);
    file_.append(bytes);
  }

  atomic_file file_;
  bool bin_;
  index_t vocab_;
  detail::shard_header shard_;
  std::vector<std::uint64_t> offsets_{0};
  std::vector<std::byte> buffer_;
  crc32c sum_;
};

}  // namespace dsv3::inline DSV3_ABI
