// SPDX-License-Identifier: MIT
// The arrays by which the host and the operations of one step over some sequences tell each other things.
#pragma once

#include <dsv3/exec/pooled_memory.hpp>
#include <dsv3/infer/decoding_state.hpp>
#include <dsv3/layer/cached_tokens.hpp>
#include <dsv3/op/sample/sampling_options.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Collects the tokens of a step, sequence by sequence. The views it gives out live until the next `add`.
class step_rows {
 public:
  /// `memory` is reached by host and backend. The table has `pages` columns, or as many as the longest
  /// sequence needs: no result depends on their number.
  explicit step_rows(memory_resource& memory, index_t pages = 0)
      : ids_(memory),
        positions_(memory),
        key_positions_(memory),
        lengths_(memory),
        table_(memory),
        offsets_({0}, memory),
        key_offsets_(memory),
        width_(pages) {}

  /// Afterwards the arrays of steps of so many sequences and tokens stay where they are.
  void reserve(index_t sequences, index_t tokens) {
    const auto count = [](index_t n) { return static_cast<std::size_t>(n); };
    ids_.reserve(count(tokens)), positions_.reserve(count(tokens));
    lengths_.reserve(count(sequences)), offsets_.reserve(count(sequences + 1));
    table_.reserve(count(sequences * width_));
  }
  void clear() {
    ids_.clear(), positions_.clear(), lengths_.clear(), pages_.clear();
    offsets_.assign(1, 0);
    longest_query_ = longest_key_ = 0;
  }

  /// `ids` become the rows first, first + 1, ... of a sequence whose pages these are.
  void add(const std::vector<std::int32_t>& pages, index_t first, std::span<const std::int32_t> ids) {
    const auto last = static_cast<std::int32_t>(first + static_cast<index_t>(ids.size()));
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    for (auto row = static_cast<std::int32_t>(first); row < last; ++row) positions_.push_back(row);
    offsets_.push_back(static_cast<std::int32_t>(ids_.size()));
    lengths_.push_back(last);
    pages_.push_back(pages);
    longest_query_ = std::max(longest_query_, static_cast<index_t>(ids.size()));
    longest_key_ = std::max(longest_key_, index_t{last});
  }

  index_t sequences() const { return static_cast<index_t>(lengths_.size()); }
  index_t tokens() const { return static_cast<index_t>(ids_.size()); }
  /// The step's first token of sequence `index`, counted in the order they were added.
  index_t offset(index_t index) const { return offsets_[static_cast<std::size_t>(index)]; }
  view<const std::int32_t, 1> ids() const { return whole(ids_); }

  cached_tokens tokens(attention_form form) {
    // Only keys that are expanded need places of their own.
    key_positions_.clear(), key_offsets_.assign(1, 0);
    for (const std::int32_t length : lengths_) {
      if (form == attention_form::absorbed) break;
      for (std::int32_t row = 0; row < length; ++row) key_positions_.push_back(row);
      key_offsets_.push_back(static_cast<std::int32_t>(key_positions_.size()));
    }
    auto width = static_cast<std::size_t>(width_);
    for (const auto& pages : pages_) width = std::max(width, pages.size());
    table_.assign(width * pages_.size(), 0);
    for (std::size_t s = 0; s < pages_.size(); ++s)
      std::copy(pages_[s].begin(), pages_[s].end(), table_.begin() + static_cast<std::ptrdiff_t>(s * width));
    return {.queries = {whole(offsets_), whole(positions_), longest_query_},
            .keys = {whole(key_offsets_), whole(key_positions_), longest_key_},
            .table = view<const std::int32_t, 2>{table_.data(), sequences(), static_cast<index_t>(width)},
            .lengths = whole(lengths_),
            .form = form};
  }

  /// The numbers that an absorbed step depends on, but for what lies in its arrays.
  void append_key(std::vector<double>& key) const {
    for (const shared_array<std::int32_t>* array : {&ids_, &positions_, &lengths_, &table_, &offsets_})
      append_array(key, *array);
    key.push_back(static_cast<double>(longest_query_));
  }
  template <class T>
  static void append_array(std::vector<double>& key, const shared_array<T>& array) {
    // What is empty lies nowhere.
    key.push_back(array.empty() ? 0 : static_cast<double>(reinterpret_cast<std::uintptr_t>(array.data())));
    key.push_back(static_cast<double>(array.size()));
  }

 private:
  static view<const std::int32_t, 1> whole(const shared_array<std::int32_t>& values) {
    return view<const std::int32_t, 1>{values.data(), static_cast<index_t>(values.size())};
  }

  shared_array<std::int32_t> ids_, positions_, key_positions_, lengths_, table_, offsets_, key_offsets_;
  std::vector<std::vector<std::int32_t>> pages_;
  index_t width_, longest_query_ = 0, longest_key_ = 0;
};

/// All arrays of a step. Refilled for the next one they stay where they are, once they were as long: so steps
/// of one shape have one key, and who records them launches the record. Operations may read them until the
/// backend is done: clear them only then.
struct step_arrays {
  step_rows rows;
  shared_array<std::int32_t> source, heads;  // states that the MTP module reads; tokens that predict
  shared_array<sampling_options> options;    // [predictions]
  shared_array<std::int32_t> seen, seen_offsets;
  shared_array<std::int32_t> drafted, draft_offsets, draft_rows;  // drafts, whose, and drawn from which rows
  shared_array<std::uint64_t> bits;
  shared_array<std::int32_t> accepted, next;  // written

  explicit step_arrays(memory_resource& memory, index_t pages = 0)
      : rows(memory, pages),
        source(memory),
        heads(memory),
        options(memory),
        seen(memory),
        seen_offsets(memory),
        drafted(memory),
        draft_offsets(memory),
        draft_rows(memory),
        bits(memory),
        accepted(memory),
        next(memory) {}

  void reserve(index_t sequences, index_t tokens) {
    rows.reserve(sequences, tokens);
    const auto count = static_cast<std::size_t>(tokens);
    for (auto* array : {&source, &heads, &drafted, &draft_rows, &accepted, &next}) array->reserve(count);
    options.reserve(count), bits.reserve(2 * count);
    seen_offsets.reserve(count + 1), draft_offsets.reserve(static_cast<std::size_t>(sequences + 1));
  }
  void clear() {
    rows.clear(), options.clear(), bits.clear();
    for (auto* array :
         {&source, &heads, &seen, &seen_offsets, &drafted, &draft_offsets, &draft_rows, &accepted, &next})
      array->clear();
  }

  /// The numbers that a step depends on, but for what lies in its arrays.
  std::vector<double> key() const {
    std::vector<double> numbers;
    rows.append_key(numbers);
    for (const auto* array :
         {&source, &heads, &seen, &seen_offsets, &drafted, &draft_offsets, &draft_rows, &accepted, &next})
      step_rows::append_array(numbers, *array);
    step_rows::append_array(numbers, options), step_rows::append_array(numbers, bits);
    return numbers;
  }
};

}  // namespace dsv3::inline DSV3_ABI
