// SPDX-License-Identifier: MIT
// Files of tokens, mapped and not loaded: our own shards (.dsv3tok) and llm.c's .bin. docs/formats.md has
// every byte.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>
#include <dsv3/io/crc32c.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/tensor/view.hpp>

#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

namespace dsv3::inline DSV3_ABI {

namespace detail {

static_assert(std::endian::native == std::endian::little, "token files are read as they lie: little endian");

/// The first 64 bytes of a shard.
struct shard_header {
  static constexpr std::uint32_t expected_version = 1;

  char magic[8] = {'d', 's', 'v', '3', 't', 'o', 'k', '\n'};
  std::uint32_t version = expected_version, token_bytes = 0;
  std::uint64_t tokens = 0, documents = 0, vocab = 0;
  std::uint32_t tokenizer_sum = 0;  // CRC-32C of the tokenizer.json; 0: bytes are the tokens
  std::uint32_t body_sum = 0;       // of everything after the header
  std::uint32_t reserved[3] = {};
  std::uint32_t header_sum = 0;  // of the bytes before it

  std::uint32_t sum() const {
    return crc32c_of(std::as_bytes(std::span(this, 1)).first(sizeof *this - sizeof header_sum));
  }
  /// Offsets of documents lie aligned behind the tokens.
  std::uint64_t offsets_at() const { return sizeof *this + (tokens * token_bytes + 7) / 8 * 8; }
};
static_assert(sizeof(shard_header) == 64);

/// The first 1024 bytes of llm.c's files.
struct bin_header {
  static constexpr std::int32_t narrow_magic = 20240520, narrow_version = 1;  // uint16 tokens
  static constexpr std::int32_t wide_magic = 20240801, wide_version = 7;      // uint32 tokens

  std::int32_t magic, version, tokens, rest[253];
};
static_assert(sizeof(bin_header) == 1024);

}  // namespace detail

/// By its name: llm.c's files end in .bin, shards of our own in .dsv3tok.
inline bool is_llm_c_file(const std::string& path) {
  return std::filesystem::path(path).extension() == ".bin";
}
inline bool is_token_file(const std::string& path) {
  return is_llm_c_file(path) || std::filesystem::path(path).extension() == ".dsv3tok";
}

/// The tokens of one file. Opening reads the header and no token; every refusal is one sentence with the
/// path, what was found and what was expected.
class token_file {
 public:
  explicit token_file(const std::string& path) : file_(path) {
    if (is_llm_c_file(path))
      open_bin();
    else
      open_shard();
  }

  const std::string& path() const { return file_.path(); }
  index_t tokens() const { return tokens_; }
  /// Ids are below it; 0 where the format does not say.
  index_t vocab() const { return vocab_; }
  /// CRC-32C of the tokenizer.json that made it; 0 where bytes are the tokens, or the format does not say.
  std::uint32_t tokenizer_sum() const { return tokenizer_sum_; }
  int token_bytes() const { return token_bytes_; }

  /// llm.c's files do not know their documents: the whole file is one.
  index_t documents() const { return documents_; }
  /// Where a document begins and ends.
  index_range document(index_t index) const {
    if (offsets_ == nullptr) return {0, tokens_};
    std::uint64_t bounds[2];
    std::memcpy(bounds, offsets_ + 8 * index, sizeof bounds);
    if (bounds[0] > bounds[1] || bounds[1] > static_cast<std::uint64_t>(tokens_))
      raise(path() + " is damaged: document " + std::to_string(index) + " goes from token " +
            std::to_string(bounds[0]) + " to " + std::to_string(bounds[1]) + ", the file holds " +
            std::to_string(tokens_));
    return {static_cast<index_t>(bounds[0]), static_cast<index_t>(bounds[1])};
  }

  /// Copies the tokens from `first` on into `to`; raises for an id that is not below `vocab`.
  void read(index_t first, view<std::int32_t, 1> to, index_t vocab) const {
    for (index_t i = 0; i < to.size(); ++i) {
      const std::uint32_t id = at(first + i);
      if (static_cast<index_t>(id) >= vocab)
        raise(path() + ": token " + std::to_string(first + i) + " is " + std::to_string(id) +
              ", expected an id below " + std::to_string(vocab));
      to(i) = static_cast<std::int32_t>(id);
    }
  }

  /// A checksum of the content. A shard names it in its header; a .bin is read whole for it.
  std::uint32_t sum() const { return is_llm_c_file(path()) ? crc32c_of(file_.bytes()) : body_sum_; }

  /// Good when the content has the checksum that the header names; reads the whole file. A .bin names none.
  status verify() const {
    if (is_llm_c_file(path()) || crc32c_of(file_.bytes().subspan(sizeof(detail::shard_header))) == body_sum_)
      return {};
    return status{path() + " is damaged: its tokens do not have the checksum that its header names"};
  }

 private:
  std::uint32_t at(index_t index) const {
    if (token_bytes_ == 2) {
      std::uint16_t id;
      std::memcpy(&id, data_ + 2 * index, sizeof id);
      return id;
    }
    std::uint32_t id;
    std::memcpy(&id, data_ + 4 * index, sizeof id);
    return id;
  }

  template <class Header>
  Header header() const {
    const auto bytes = file_.bytes();
    Header found;
    if (bytes.size() < sizeof found)
      raise(path() + " has " + std::to_string(bytes.size()) + " bytes, its header alone has " +
            std::to_string(sizeof found));
    std::memcpy(&found, bytes.data(), sizeof found);
    return found;
  }
  void expect_size(std::uint64_t expected, const std::string& tokens) const {
    if (file_.bytes().size() != expected)
      raise(path() + " has " + std::to_string(file_.bytes().size()) + " bytes, its header announces " +
            tokens + " and so " + std::to_string(expected));
  }

  void open_bin() {
    using header_type = detail::bin_header;
    const auto head = header<header_type>();
    const bool wide = head.magic == header_type::wide_magic;
    if (!wide && head.magic != header_type::narrow_magic)
      raise(path() + ": the first number is " + std::to_string(head.magic) + ", expected " +
            std::to_string(header_type::wide_magic) + " or " + std::to_string(header_type::narrow_magic) +
            " as llm.c writes them");
    const std::int32_t version = wide ? header_type::wide_version : header_type::narrow_version;
    if (head.version != version)
      raise(path() + ": the version is " + std::to_string(head.version) + ", expected " +
            std::to_string(version));
    if (head.tokens < 0)
      raise(path() + ": " + std::to_string(head.tokens) + " tokens announced, expected at least 0");
    token_bytes_ = wide ? 4 : 2;
    tokens_ = head.tokens;
    documents_ = 1;
    data_ = file_.bytes().data() + sizeof head;
    expect_size(sizeof head + static_cast<std::uint64_t>(tokens_ * token_bytes_),
                std::to_string(tokens_) + " tokens");
  }

  void open_shard() {
    using header_type = detail::shard_header;
    if (!file_.text().starts_with(std::string_view(header_type{}.magic, 8)))
      raise(path() + " is no shard of tokens: it does not begin with \"dsv3tok\" and a newline");
    const auto head = header<header_type>();
    if (head.version != header_type::expected_version)
      raise(path() + ": the version is " + std::to_string(head.version) + ", expected " +
            std::to_string(header_type::expected_version));
    if (head.sum() != head.header_sum)
      raise(path() + " is damaged: its header does not have the checksum it names");
    constexpr std::uint64_t most = std::uint64_t{1} << 56;  // so that no product below wraps
    if ((head.token_bytes != 2 && head.token_bytes != 4) || head.tokens > most || head.documents > most ||
        head.vocab > std::uint64_t{1} << 31)
      raise(path() + ": its header names " + std::to_string(head.tokens) + " tokens of " +
            std::to_string(head.token_bytes) + " bytes, " + std::to_string(head.documents) +
            " documents and a vocabulary of " + std::to_string(head.vocab) +
            ", expected tokens of 2 or 4 bytes and numbers that a file can have");
    token_bytes_ = static_cast<int>(head.token_bytes);
    tokens_ = static_cast<index_t>(head.tokens);
    documents_ = static_cast<index_t>(head.documents);
    vocab_ = static_cast<index_t>(head.vocab);
    tokenizer_sum_ = head.tokenizer_sum;
    body_sum_ = head.body_sum;
    data_ = file_.bytes().data() + sizeof head;
    expect_size(head.offsets_at() + 8 * (head.documents + 1),
                std::to_string(tokens_) + " tokens in " + std::to_string(documents_) + " documents");
    offsets_ = file_.bytes().data() + head.offsets_at();
  }

  mapped_file file_;
  const std::byte* data_ = nullptr;
  const std::byte* offsets_ = nullptr;
  index_t tokens_ = 0, documents_ = 0, vocab_ = 0;
  int token_bytes_ = 0;
  std::uint32_t tokenizer_sum_ = 0, body_sum_ = 0;
};

}  // namespace dsv3::inline DSV3_ABI
