// SPDX-License-Identifier: MIT
// Text as tokens: documents from files, one token a byte, packed into full rows in an order that a seed
// decides.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/io/crc32c.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/text/packing.hpp>
#include <dsv3/text/text_files.hpp>

#include <algorithm>
#include <cstdint>
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

}  // namespace dsv3::inline DSV3_ABI
