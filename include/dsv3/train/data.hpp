// SPDX-License-Identifier: MIT
// Text as tokens: documents from files, one token a byte, packed into full rows in an order that a seed
// decides.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/io/crc32c.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/tensor/view.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Ids 0 to 255 are the bytes; each document stands between `begin` and `end`.
struct byte_tokens {
  static constexpr std::int32_t begin = 256, end = 257, count = 258;

  static status check(index_t vocab) {
    if (vocab >= count) return {};
    return status{"vocab_size is " + std::to_string(vocab) + ", byte tokens need at least " +
                  std::to_string(count) + ": 256 bytes, begin and end of a document"};
  }
};

/// The documents of files and folders, in the order of their paths; read once and kept.
class text_corpus {
 public:
  struct document {
    std::string path, text;
  };

  /// Folders are walked whole, without hidden names. A file with a zero byte is not text: it is left out and
  /// listed in `skipped`. What does not exist raises, and so does finding no text at all.
  explicit text_corpus(const std::vector<std::string>& paths) {
    namespace fs = std::filesystem;
    std::vector<std::string> files;
    for (const std::string& path : paths) {
      std::error_code problem;
      const fs::file_status found = fs::status(path, problem);
      if (!fs::exists(found)) raise("data: " + path + " does not exist, expected a file or a folder of text");
      if (fs::is_directory(found))
        walk(path, files);
      else
        files.push_back(path);
    }
    std::sort(files.begin(), files.end());
    files.erase(std::unique(files.begin(), files.end()), files.end());
    for (const std::string& path : files) take(path);
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
  static void walk(const std::string& folder, std::vector<std::string>& files) {
    namespace fs = std::filesystem;
    std::error_code problem;
    fs::recursive_directory_iterator at(folder, problem);
    for (; !problem && at != fs::recursive_directory_iterator(); at.increment(problem)) {
      const std::string name = at->path().filename().string();
      std::error_code unreadable;  // a broken link is no file
      if (name.starts_with('.')) {
        if (at->is_directory(unreadable)) at.disable_recursion_pending();
      } else if (at->is_regular_file(unreadable)) {
        files.push_back(at->path().string());
      }
    }
    if (problem) raise("data: " + folder + " cannot be walked: " + problem.message());
  }

  void take(const std::string& path) {
    const mapped_file file{path};
    if (file.text().empty()) return;
    if (file.text().find('\0') != std::string_view::npos) {
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

namespace detail {
// A permutation of [0, count) that is a function of the stream alone (Fisher-Yates).
inline std::vector<index_t> shuffled(index_t count, const random_stream& random) {
  std::vector<index_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), index_t{0});
  for (index_t i = count - 1; i > 0; --i) {
    const auto bound = static_cast<std::uint64_t>(i) + 1;
    std::swap(order[static_cast<std::size_t>(i)], order[random.below(bound, static_cast<std::uint64_t>(i))]);
  }
  return order;
}
}  // namespace detail

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

/// Where a reader is: complete passes, and rows of the current one that are used up.
struct data_cursor {
  index_t epoch = 0, row = 0;
  bool operator==(const data_cursor&) const = default;
};

enum class row_order { shuffled, as_given };

/// Packs documents into rows of length + ahead tokens that start `length` apart, so every token of a pass is
/// predicted once (report, section 4.1: packed, without a mask between documents). Each pass has its own
/// order of documents, hence its own rows, and its own order of rows. The texts must outlive the reader.
class row_reader {
 public:
  row_reader(std::vector<std::string_view> documents, index_t length, index_t ahead, std::uint64_t seed,
             row_order order = row_order::shuffled)
      : documents_(std::move(documents)), length_(length), ahead_(ahead), seed_(seed), order_(order) {
    for (const std::string_view text : documents_) tokens_ += static_cast<index_t>(text.size()) + 2;
    begin_pass();
  }

  index_t tokens() const { return tokens_; }
  /// Full rows of a pass; what is left at its end is shorter than one.
  index_t rows() const { return tokens_ < length_ + ahead_ ? 0 : (tokens_ - ahead_) / length_; }

  const data_cursor& cursor() const { return cursor_; }
  void seek(const data_cursor& cursor) {
    if (cursor.epoch < 0 || cursor.row < 0 || cursor.row > rows())
      raise("data: the cursor is at row " + std::to_string(cursor.row) + " of pass " +
            std::to_string(cursor.epoch) + ", a pass has " + std::to_string(rows()) + " rows");
    cursor_ = cursor;
    begin_pass();
  }

  /// Writes the next row into `row` [length + ahead] and moves on; after the last row of a pass the next
  /// begins.
  void next(view<std::int32_t, 1> row) {
    if (rows() == 0)
      raise("data: " + std::to_string(tokens_) + " tokens found, one row needs " +
            std::to_string(length_ + ahead_) + ": give more text or a smaller --seq");
    if (cursor_.row == rows()) {
      cursor_ = {cursor_.epoch + 1, 0};
      begin_pass();
    }
    read(row_order_.empty() ? cursor_.row : row_order_[static_cast<std::size_t>(cursor_.row)], row);
    ++cursor_.row;
  }

 private:
  // The order of this pass, and where each document begins in it.
  void begin_pass() {
    const auto count = static_cast<index_t>(documents_.size());
    const std::string pass = std::to_string(cursor_.epoch);
    if (order_ == row_order::shuffled) {
      document_order_ = detail::shuffled(count, random_stream::named(seed_, "data.documents." + pass));
      row_order_ = detail::shuffled(rows(), random_stream::named(seed_, "data.rows." + pass));
    } else {
      document_order_.resize(documents_.size());
      std::iota(document_order_.begin(), document_order_.end(), index_t{0});
    }
    starts_.assign(1, 0);
    for (const index_t d : document_order_)
      starts_.push_back(starts_.back() +
                        static_cast<index_t>(documents_[static_cast<std::size_t>(d)].size()) + 2);
  }

  void read(index_t row, view<std::int32_t, 1> out) const {
    index_t at = row * length_;
    auto place =
        static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), at) - starts_.begin() - 1);
    for (index_t i = 0; i < length_ + ahead_; ++i, ++at) {
      if (at == starts_[place + 1]) ++place;
      const std::string_view text = documents_[static_cast<std::size_t>(document_order_[place])];
      const auto offset = static_cast<std::size_t>(at - starts_[place]);
      out(i) = offset == 0                 ? byte_tokens::begin
               : offset == text.size() + 1 ? byte_tokens::end
                                           : static_cast<unsigned char>(text[offset - 1]);
    }
  }

  std::vector<std::string_view> documents_;
  index_t length_, ahead_;
  std::uint64_t seed_;
  row_order order_;
  index_t tokens_ = 0;
  data_cursor cursor_;
  std::vector<index_t> document_order_, row_order_, starts_;
};

}  // namespace dsv3::inline DSV3_ABI
