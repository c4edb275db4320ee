// SPDX-License-Identifier: MIT
// The arrays that describe one step over some sequences.
#pragma once

#include <dsv3/exec/pooled_memory.hpp>
#include <dsv3/infer/decoding_state.hpp>
#include <dsv3/layer/cached_tokens.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Collects the tokens of a step, sequence by sequence. The views it gives out live until the next `add`.
class step_rows {
 public:
  /// `memory` is reached by host and backend.
  explicit step_rows(memory_resource& memory)
      : ids_(memory),
        positions_(memory),
        key_positions_(memory),
        lengths_(memory),
        table_(memory),
        offsets_({0}, memory),
        key_offsets_({0}, memory) {}

  /// `ids` become the rows first, first + 1, ... of a sequence whose pages these are.
  void add(const std::vector<std::int32_t>& pages, index_t first, std::span<const std::int32_t> ids) {
    const auto last = static_cast<std::int32_t>(first + static_cast<index_t>(ids.size()));
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    for (auto row = static_cast<std::int32_t>(first); row < last; ++row) positions_.push_back(row);
    for (std::int32_t row = 0; row < last; ++row) key_positions_.push_back(row);
    offsets_.push_back(static_cast<std::int32_t>(ids_.size()));
    key_offsets_.push_back(static_cast<std::int32_t>(key_positions_.size()));
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
    std::size_t width = 0;
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

 private:
  static view<const std::int32_t, 1> whole(const shared_array<std::int32_t>& values) {
    return view<const std::int32_t, 1>{values.data(), static_cast<index_t>(values.size())};
  }

  shared_array<std::int32_t> ids_, positions_, key_positions_, lengths_, table_, offsets_, key_offsets_;
  std::vector<std::vector<std::int32_t>> pages_;
  index_t longest_query_ = 0, longest_key_ = 0;
};

}  // namespace dsv3::inline DSV3_ABI
