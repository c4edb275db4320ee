// SPDX-License-Identifier: MIT
// Byte-level BPE: text to token ids and back, exactly as the tokenizer.json says.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>
#include <dsv3/text/added_token_matcher.hpp>
#include <dsv3/text/merge_table.hpp>
#include <dsv3/text/splitter.hpp>
#include <dsv3/text/tokenizer_definition.hpp>
#include <dsv3/text/tokenizer_file.hpp>
#include <dsv3/text/word_cache.hpp>

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// `added_tokens`: contents of added tokens in the text become these tokens. `frame`: with what the
/// post-processor puts before and after a text ("add_special_tokens").
struct encode_options {
  bool added_tokens = true, frame = false;
};

/// `special`: special tokens are part of the text.
struct decode_options {
  bool special = true;
};

namespace detail {

/// What a tokenizer and its encoders share.
struct tokenizer_parts {
  explicit tokenizer_parts(tokenizer_definition given)
      : definition(checked(std::move(given))), pieces(definition), merges(definition.merges.size()) {
    bytes.resize(static_cast<std::size_t>(definition.count()));
    special.resize(bytes.size());
    words.reserve(definition.vocabulary.size());
    for (std::size_t id = 0; id < definition.vocabulary.size(); ++id) {
      const vocabulary_token& token = definition.vocabulary[id];
      bytes[id] = token.bytes;
      (token.literal ? added : words).emplace(token.bytes, static_cast<std::int32_t>(id));
    }
    for (int byte = 0; byte < 256; ++byte)
      byte_ids[static_cast<std::size_t>(byte)] = words.at(std::string(1, static_cast<char>(byte)));
    std::string whole;
    for (std::size_t rank = 0; rank < definition.merges.size(); ++rank) {
      const auto [left, right] = definition.merges[rank];
      (whole = bytes[static_cast<std::size_t>(left)]) += bytes[static_cast<std::size_t>(right)];
      merges.set(left, right, {static_cast<std::uint32_t>(rank), words.at(whole)});
    }
    for (const added_token& token : definition.added_tokens) {
      const auto id = static_cast<std::size_t>(token.id);
      bytes[id] = token.content;
      special[id] = token.special;
      added.insert_or_assign(token.content, token.id);
      (token.normalized ? normalized : plain).add(token);
    }
  }
  static tokenizer_definition checked(tokenizer_definition given) {
    require(given.check());
    return given;
  }

  tokenizer_definition definition;
  std::vector<std::string_view> bytes;  // of each id; they lie in `definition`
  std::vector<bool> special;
  std::unordered_map<std::string, std::int32_t> words, added;
  std::array<std::int32_t, 256> byte_ids{};
  splitter pieces;
  merge_table merges;
  added_token_matcher plain, normalized;
};

}  // namespace detail

/// Immutable; any number of threads may use one. Copies share what they hold.
///
///     const tokenizer words = tokenizer::load("model");
///     const std::vector<std::int32_t> ids = words.encode("Hello", {.frame = true});
///     const std::string text = words.decode(ids, {.special = false});
class tokenizer {
 public:
  /// Raises what definition.check() says, and a sentence for a pattern that PCRE2 refuses.
  explicit tokenizer(tokenizer_definition definition)
      : parts_(std::make_shared<const detail::tokenizer_parts>(std::move(definition))) {}

  /// A tokenizer.json, or a folder that contains one.
  static tokenizer load(const std::string& path) {
    const std::string file = std::filesystem::is_directory(path)
                                 ? (std::filesystem::path(path) / "tokenizer.json").string()
                                 : path;
    std::optional<tokenizer> loaded;
    const status answer = attempt([&] { loaded.emplace(read_tokenizer(file)); });
    if (!answer)
      raise(answer.message().starts_with(file) ? answer.message() : file + ": " + answer.message());
    return *std::move(loaded);
  }

  const tokenizer_definition& definition() const { return parts_->definition; }

  /// The largest id + 1.
  std::int32_t vocab() const { return static_cast<std::int32_t>(parts_->bytes.size()); }
  bool contains(std::int32_t id) const { return id >= 0 && id < vocab(); }

  /// The bytes a token stands for. Raises where there is no such token.
  std::string_view bytes_of(std::int32_t id) const {
    demand(id);
    return parts_->bytes[static_cast<std::size_t>(id)];
  }
  /// True of added tokens that are special, such as the begin of a text.
  bool is_special(std::int32_t id) const {
    return contains(id) && parts_->special[static_cast<std::size_t>(id)];
  }

  /// The token with this content (added tokens) or these bytes.
  std::optional<std::int32_t> id_of(std::string_view token) const {
    const std::string name{token};
    for (const auto* table : {&parts_->added, &parts_->words})
      if (const auto found = table->find(name); found != table->end()) return found->second;
    return {};
  }

  /// A model must know every id; it may know more.
  status check(index_t model_vocab) const {
    if (vocab() <= model_vocab) return {};
    return status{"the tokenizer has ids up to " + std::to_string(vocab() - 1) +
                  ", the model's vocab_size is " + std::to_string(model_vocab) + ", expected at least " +
                  std::to_string(vocab())};
  }

  /// Encodes text after text. One for each thread; it keeps the words it has met.
  class encoder {
   public:
    explicit encoder(const tokenizer& words) : parts_(words.parts_) {}

    /// Appends the ids of `text` to `out`.
    void encode(std::string_view text, std::vector<std::int32_t>& out, encode_options options = {}) {
      const tokenizer_definition& definition = parts_->definition;
      if (options.frame) out.insert(out.end(), definition.before.begin(), definition.before.end());
      if (options.added_tokens) {
        parts_->plain.split(text, scratch_, [&](std::string_view part, const added_token* token) {
          if (token != nullptr)
            out.push_back(token->id);
          else
            parts_->normalized.split(part, scratch_, [&](std::string_view rest, const added_token* inner) {
              if (inner != nullptr)
                out.push_back(inner->id);
              else
                encode_ordinary(rest, out);
            });
        });
      } else {
        encode_ordinary(text, out);
      }
      if (options.frame) out.insert(out.end(), definition.after.begin(), definition.after.end());
    }

   private:
    void encode_ordinary(std::string_view text, std::vector<std::int32_t>& out) {
      parts_->pieces.split(text, scratch_, [&](std::string_view piece) { encode_piece(piece, out); });
    }

    void encode_piece(std::string_view piece, std::vector<std::int32_t>& out) {
      if (piece.size() == 1) return out.push_back(parts_->byte_ids[static_cast<unsigned char>(piece[0])]);
      const bool remembered = piece.size() <= word_cache::longest;
      const std::uint64_t hash = remembered ? word_cache::hash(piece) : 0;
      if (remembered) {
        if (const auto ids = met_.find(piece, hash)) {
          out.insert(out.end(), ids->begin(), ids->end());
          return;
        }
      }
      word_.clear();
      const auto whole =
          parts_->definition.ignore_merges ? parts_->words.find(std::string(piece)) : parts_->words.end();
      if (whole != parts_->words.end()) {
        word_.push_back(whole->second);
      } else {
        for (const char byte : piece) word_.push_back(parts_->byte_ids[static_cast<unsigned char>(byte)]);
        merger_.reduce(parts_->merges, word_);
      }
      if (remembered) met_.put(piece, hash, word_);
      out.insert(out.end(), word_.begin(), word_.end());
    }

    std::shared_ptr<const detail::tokenizer_parts> parts_;
    pattern_scratch scratch_;
    word_merger merger_;
    word_cache met_;
    std::vector<std::int32_t> word_;
  };

  /// Of many texts, let an encoder take one after the other.
  std::vector<std::int32_t> encode(std::string_view text, encode_options options = {}) const {
    std::vector<std::int32_t> ids;
    encode(text, ids, options);
    return ids;
  }
  /// Appends.
  void encode(std::string_view text, std::vector<std::int32_t>& out, encode_options options = {}) const {
    encoder{*this}.encode(text, out, options);
  }
  /// As if there were no added tokens: for text that nobody vouches for.
  std::vector<std::int32_t> encode_ordinary(std::string_view text) const {
    return encode(text, {.added_tokens = false});
  }

  /// The bytes of the tokens, one after the other. Raises where an id is none.
  std::string decode(std::span<const std::int32_t> ids, decode_options options = {}) const {
    std::string text;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (!contains(ids[i]))
        raise("decode: id " + std::to_string(ids[i]) + " found at position " + std::to_string(i) +
              ", expected 0 to " + std::to_string(vocab() - 1));
      if (options.special || !is_special(ids[i])) text += parts_->bytes[static_cast<std::size_t>(ids[i])];
    }
    return text;
  }

 private:
  void demand(std::int32_t id) const {
    if (!contains(id))
      raise("tokenizer: id " + std::to_string(id) + " found, expected 0 to " + std::to_string(vocab() - 1));
  }

  std::shared_ptr<const detail::tokenizer_parts> parts_;
};

}  // namespace dsv3::inline DSV3_ABI
