// SPDX-License-Identifier: MIT
// What a run trains on: documents of text files, encoded, or files of tokens; and the share that is held out.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/io/crc32c.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/text/encoded_documents.hpp>
#include <dsv3/text/packing.hpp>
#include <dsv3/text/stored_tokenizer.hpp>
#include <dsv3/text/text_files.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// The documents of files and folders, in the order of their paths; read once and kept.
class text_corpus {
 public:
  struct document {
    std::string path, text;
  };

  /// Folders are walked whole, without hidden names. A file with a zero byte is not text: it is left out and
  /// listed in `skipped`. What does not exist raises, and so does finding no text at all.
  explicit text_corpus(const std::vector<std::string>& paths) {
    for (const std::string& path : files_of(paths)) take(path);
    if (documents_.empty()) {
      std::string named;
      for (const std::string& path : paths) named += (named.empty() ? "" : ", ") + path;
      raise("data: no text found in " + (named.empty() ? "an empty list of paths" : named) +
            ", expected at least one file that is not empty and has no zero byte");
    }
  }

  const std::vector<document>& documents() const { return documents_; }
  const std::vector<std::string>& skipped() const { return skipped_; }
  index_t bytes() const { return bytes_; }

 private:
  void take(const std::string& path) {
    const mapped_file file{path};
    if (file.text().empty()) return;
    if (!is_text(file.text())) {
      skipped_.push_back(path);
      return;
    }
    documents_.push_back({path, std::string(file.text())});
    bytes_ += static_cast<index_t>(file.text().size());
  }

  std::vector<document> documents_;
  std::vector<std::string> skipped_;
  index_t bytes_ = 0;
};

/// Training text, and text that is never trained on.
struct text_split {
  std::vector<std::string_view> training, held_out;

  /// The documents in an order of their own, whatever the run's seed: the last `share` of their bytes is held
  /// out, so runs with other seeds are compared on the same text. The corpus must outlive the split.
  text_split(const text_corpus& corpus, double share) {
    const auto& documents = corpus.documents();
    const auto order =
        detail::shuffled(static_cast<index_t>(documents.size()), random_stream::named(0, "data.split"));
    auto left = static_cast<std::size_t>(static_cast<double>(corpus.bytes()) * (1 - share));
    for (const index_t d : order) {
      const std::string_view text = documents[static_cast<std::size_t>(d)].text;
      const std::size_t kept = std::min(text.size(), left);
      if (kept > 0) training.push_back(text.substr(0, kept));
      if (kept < text.size()) held_out.push_back(text.substr(kept));
      left -= kept;
    }
  }

  /// A checksum of the training text: a run goes on only with the text it began with.
  std::uint32_t training_sum() const {
    crc32c sum;
    for (const std::string_view text : training) {
      const std::uint64_t length = text.size();
      sum.update(std::as_bytes(std::span(&length, 1))).update(text);
    }
    return sum.value();
  }
};

/// How the documents of a run become tokens.
struct token_source {
  stored_tokenizer tokenizer = {};
  index_t vocab = byte_tokens::count;  // of the model: ids are below it
  fill_in_middle fim = {};             // of training text
  int threads = 1;

  /// Says what the model or the tokenizer lacks.
  status check() const {
    const status fits = tokenizer.bytes() ? byte_tokens::check(vocab) : tokenizer.words.check(vocab);
    return fits ? document_marks{tokenizer.words}.check(fim.rate > 0) : fits;
  }
};

/// Text files and folders, or files of tokens, as documents to train on and documents to evaluate on.
class training_data {
 public:
  /// `held_out` is the share that is never trained on: of the bytes of text, or of the tokens of files.
  training_data(const std::vector<std::string>& paths, double held_out, token_source source)
      : source_(std::move(source)) {
    require(source_.check());
    const auto stored = std::count_if(paths.begin(), paths.end(), is_token_file);
    if (stored == 0) {
      corpus_.emplace(paths);
      split_.emplace(*corpus_, held_out);
    } else if (stored == static_cast<std::ptrdiff_t>(paths.size())) {
      open(paths, held_out);
    } else {
      raise("data: files of tokens and text found together, expected one of them");
    }
  }
  training_data(const training_data&) = delete;

  /// They read what this object holds.
  std::unique_ptr<token_documents> training() const {
    if (!corpus_) return std::make_unique<stored_documents>(training_, source_.vocab);
    return encoded(split_->training, source_.fim);
  }
  std::unique_ptr<token_documents> held_out() const {
    if (!corpus_) return std::make_unique<stored_documents>(held_out_, source_.vocab);
    return encoded(split_->held_out, {});
  }

  /// A checksum of what is trained on and how it is told: a run goes on only with what it began with.
  std::uint32_t sum() const {
    crc32c sum;
    const auto add = [&](auto value) { sum.update(std::as_bytes(std::span(&value, 1))); };
    for (const token_stretch& stretch : training_)
      add(stretch.file->sum()), add(stretch.tokens.begin), add(stretch.tokens.end);
    if (!corpus_) return sum.value();
    if (source_.fim.rate <= 0) return split_->training_sum();
    add(split_->training_sum()), add(source_.fim.rate);
    return sum.value();
  }

  std::string description() const {
    if (corpus_)
      return std::to_string(corpus_->bytes()) + " bytes of text in " +
             std::to_string(corpus_->documents().size()) + " documents";
    index_t tokens = 0;
    for (const auto* stretches : {&training_, &held_out_})
      for (const token_stretch& stretch : *stretches) tokens += stretch.tokens.count();
    return std::to_string(tokens) + " tokens in " + std::to_string(files_) + " files";
  }
  /// Files that hold no text.
  std::vector<std::string> skipped() const {
    return corpus_ ? corpus_->skipped() : std::vector<std::string>{};
  }

 private:
  std::unique_ptr<token_documents> encoded(const std::vector<std::string_view>& texts,
                                           const fill_in_middle& fim) const {
    if (source_.tokenizer.bytes()) return std::make_unique<byte_documents>(texts);
    return std::make_unique<encoded_documents>(texts, source_.tokenizer.words, source_.threads, fim);
  }

  // As with text, an order of the files whose last tokens are held out.
  void open(const std::vector<std::string>& paths, double held_out) {
    if (source_.fim.rate > 0)
      raise("data: " + paths.front() +
            " holds tokens, whose documents cannot be told otherwise any more: fill-in-the-middle is the "
            "business of dsv3-tokenize pack then");
    index_t tokens = 0;
    std::vector<std::shared_ptr<const token_file>> files;
    for (const std::string& path : files_of(paths)) {
      files.push_back(std::make_shared<const token_file>(path));
      check(*files.back());
      tokens += files.back()->tokens();
    }
    files_ = files.size();
    auto left = tokens - static_cast<index_t>(static_cast<double>(tokens) * held_out);
    for (const index_t f :
         detail::shuffled(static_cast<index_t>(files.size()), random_stream::named(0, "data.split"))) {
      const auto& file = files[static_cast<std::size_t>(f)];
      const index_t kept = std::min(file->tokens(), left);
      if (kept > 0) training_.push_back({file, {0, kept}});
      if (kept < file->tokens()) held_out_.push_back({file, {kept, file->tokens()}});
      left -= kept;
    }
  }

  void check(const token_file& file) const {
    if (source_.tokenizer.bytes() && (file.vocab() == 0 || file.tokenizer_sum() != 0))
      raise(file.path() + " holds the tokens of a tokenizer: expected that tokenizer to be given");
    if (file.vocab() != 0 && file.tokenizer_sum() != source_.tokenizer.sum)
      raise(file.path() + " was packed with " +
            (file.tokenizer_sum() == 0
                 ? "bytes as tokens"
                 : "the tokenizer of checksum " + std::to_string(file.tokenizer_sum())) +
            ", expected the given tokenizer, of checksum " + std::to_string(source_.tokenizer.sum));
    if (file.vocab() > source_.vocab)
      raise(file.path() + " has a vocabulary of " + std::to_string(file.vocab()) + ", the model one of " +
            std::to_string(source_.vocab));
  }

  token_source source_;
  std::optional<text_corpus> corpus_;
  std::optional<text_split> split_;
  std::vector<token_stretch> training_, held_out_;
  std::size_t files_ = 0;
};

}  // namespace dsv3::inline DSV3_ABI
