// SPDX-License-Identifier: MIT
// Documents packed into full rows, in an order that a seed decides and a cursor finds again.
#pragma once

#include <dsv3/text/index_permutation.hpp>
#include <dsv3/text/token_documents.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

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

/// Where a reader is: complete passes, and rows of the current one that are used up.
struct data_cursor {
  index_t epoch = 0, row = 0;
  bool operator==(const data_cursor&) const = default;
};

enum class row_order { shuffled, as_given };

/// Packs documents into rows of length + ahead tokens that start `length` apart, so every token of a pass is
/// predicted once (report, section 4.1: packed, without a mask between documents). Each pass has its own
/// order of documents, hence its own rows, and its own order of rows; that of the rows takes no memory.
class row_reader {
 public:
  row_reader(std::unique_ptr<token_documents> documents, index_t length, index_t ahead, std::uint64_t seed,
             row_order order = row_order::shuffled)
      : documents_(std::move(documents)), length_(length), ahead_(ahead), seed_(seed), order_(order) {
    begin_pass();
  }
  /// Of texts, a token a byte. They must outlive the reader.
  row_reader(std::vector<std::string_view> texts, index_t length, index_t ahead, std::uint64_t seed,
             row_order order = row_order::shuffled)
      : row_reader(std::make_unique<byte_documents>(std::move(texts)), length, ahead, seed, order) {}

  /// Of the pass at hand.
  index_t tokens() const { return starts_.back(); }
  /// Full rows of it; what is left at its end is shorter than one.
  index_t rows() const { return tokens() < length_ + ahead_ ? 0 : (tokens() - ahead_) / length_; }

  const data_cursor& cursor() const { return cursor_; }
  void seek(const data_cursor& cursor) {
    const data_cursor before = std::exchange(cursor_, cursor);
    if (cursor.epoch != before.epoch && cursor.epoch >= 0) begin_pass();
    if (cursor.epoch < 0 || cursor.row < 0 || cursor.row > rows())
      raise("data: the cursor is at row " + std::to_string(cursor.row) + " of pass " +
            std::to_string(cursor.epoch) + ", a pass has " + std::to_string(rows()) + " rows");
  }

  /// Writes the next row into `row` [length + ahead] and moves on; after the last row of a pass the next
  /// begins.
  void next(view<std::int32_t, 1> row) {
    if (cursor_.row == rows() && rows() > 0) {
      cursor_ = {cursor_.epoch + 1, 0};
      begin_pass();
    }
    if (rows() == 0)
      raise("data: " + std::to_string(tokens()) + " tokens found, one row needs " +
            std::to_string(length_ + ahead_) + ": give more text or a smaller --seq");
    read(row_order_ ? (*row_order_)(cursor_.row) : cursor_.row, row);
    ++cursor_.row;
  }

 private:
  // The order of this pass, and where each document begins in it.
  void begin_pass() {
    documents_->begin_pass(cursor_.epoch);
    const index_t count = documents_->count();
    const std::string pass = std::to_string(cursor_.epoch);
    if (order_ == row_order::shuffled) {
      document_order_ = detail::shuffled(count, random_stream::named(seed_, "data.documents." + pass));
    } else {
      document_order_.resize(static_cast<std::size_t>(count));
      std::iota(document_order_.begin(), document_order_.end(), index_t{0});
    }
    starts_.assign(1, 0);
    for (const index_t d : document_order_) starts_.push_back(starts_.back() + documents_->length(d));
    if (order_ == row_order::shuffled)
      row_order_.emplace(rows(), random_stream::named(seed_, "data.rows." + pass));
  }

  void read(index_t row, view<std::int32_t, 1> out) const {
    index_t at = row * length_;
    auto place =
        static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), at) - starts_.begin() - 1);
    for (index_t done = 0; done < length_ + ahead_; ++place) {
      const index_t count = std::min(starts_[place + 1] - at, length_ + ahead_ - done);
      if (count > 0)
        documents_->read(document_order_[place], at - starts_[place], out.rows(done, done + count));
      done += count;
      at += count;
    }
  }

  std::unique_ptr<token_documents> documents_;
  index_t length_, ahead_;
  std::uint64_t seed_;
  row_order order_;
  data_cursor cursor_;
  std::vector<index_t> document_order_, starts_;
  std::optional<index_permutation> row_order_;
};

}  // namespace dsv3::inline DSV3_ABI
