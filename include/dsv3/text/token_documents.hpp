// SPDX-License-Identifier: MIT
// Documents as tokens, wherever they lie: what rows are packed from. Here those of bytes and of token files.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/tensor/view.hpp>
#include <dsv3/text/token_file.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Documents with all their tokens, those that mark beginning and end included. Whoever reads them in passes
/// says when one begins: what a document holds may depend on it.
class token_documents {
 public:
  virtual ~token_documents() = default;
  virtual index_t count() const = 0;
  virtual index_t length(index_t document) const = 0;
  /// Copies the tokens of a document from `offset` on; it has as many as `to` asks for.
  virtual void read(index_t document, index_t offset, view<std::int32_t, 1> to) const = 0;
  virtual void begin_pass(index_t) {}
};

/// Ids 0 to 255 are the bytes; each document stands between `begin` and `end`.
struct byte_tokens {
  static constexpr std::int32_t begin = 256, end = 257, count = 258;

  static status check(index_t vocab) {
    if (vocab >= count) return {};
    return status{"vocab_size is " + std::to_string(vocab) + ", byte tokens need at least " +
                  std::to_string(count) + ": 256 bytes, begin and end of a document"};
  }
};

/// Texts, a token a byte. They must outlive the documents.
class byte_documents final : public token_documents {
 public:
  explicit byte_documents(std::vector<std::string_view> texts) : texts_(std::move(texts)) {}

  index_t count() const override { return static_cast<index_t>(texts_.size()); }
  index_t length(index_t document) const override { return static_cast<index_t>(text(document).size()) + 2; }
  void read(index_t document, index_t offset, view<std::int32_t, 1> to) const override {
    const std::string_view from = text(document);
    for (index_t i = 0; i < to.size(); ++i) {
      const auto at = static_cast<std::size_t>(offset + i);
      to(i) = at == 0                 ? byte_tokens::begin
              : at == from.size() + 1 ? byte_tokens::end
                                      : static_cast<unsigned char>(from[at - 1]);
    }
  }

 private:
  std::string_view text(index_t document) const { return texts_[static_cast<std::size_t>(document)]; }

  std::vector<std::string_view> texts_;
};

/// A stretch of a token file.
struct token_stretch {
  std::shared_ptr<const token_file> file;
  index_range tokens;
};

/// Stretches of token files, each of them one long document: what is packed has its marks already, so it need
/// not be known where documents begin, and a pass takes memory for the files and not for their documents.
class stored_documents final : public token_documents {
 public:
  /// An id that is not below `vocab` raises when it is read.
  stored_documents(std::vector<token_stretch> stretches, index_t vocab)
      : stretches_(std::move(stretches)), vocab_(vocab) {}

  index_t count() const override { return static_cast<index_t>(stretches_.size()); }
  index_t length(index_t document) const override { return at(document).tokens.count(); }
  void read(index_t document, index_t offset, view<std::int32_t, 1> to) const override {
    at(document).file->read(at(document).tokens.begin + offset, to, vocab_);
  }

 private:
  const token_stretch& at(index_t document) const { return stretches_[static_cast<std::size_t>(document)]; }

  std::vector<token_stretch> stretches_;
  index_t vocab_;
};

}  // namespace dsv3::inline DSV3_ABI
