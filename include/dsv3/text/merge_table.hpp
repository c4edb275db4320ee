// SPDX-License-Identifier: MIT
// Byte pair merges: pairs of tokens by rank, and a word reduced by them (Sennrich et al., 2016).
#pragma once

#include <dsv3/base/error.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <queue>
#include <string>
#include <tuple>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// (left, right) -> rank and resulting token, in a flat table with linear probing.
class merge_table {
 public:
  struct merge {
    std::uint32_t rank = none;
    std::int32_t token = 0;
  };
  static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();

  explicit merge_table(std::size_t merges) {
    slots_.resize(std::bit_ceil(2 * merges + 2));
    shift_ = 64 - std::countr_zero(slots_.size());
  }

  /// A pair that is set twice has its later rank.
  void set(std::int32_t left, std::int32_t right, merge result) {
    slots_[place(left, right)] = {left, right, result};
  }

  /// Rank `none` where the pair does not merge.
  merge find(std::int32_t left, std::int32_t right) const { return slots_[place(left, right)].result; }

 private:
  struct slot {
    std::int32_t left = 0, right = 0;
    merge result;
  };

  std::size_t place(std::int32_t left, std::int32_t right) const {
    const std::uint64_t key =
        std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
    std::size_t at = key * 0x9E3779B97F4A7C15u >> shift_;
    while (slots_[at].result.rank != none && (slots_[at].left != left || slots_[at].right != right))
      at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::vector<slot> slots_;
  int shift_ = 0;
};

/// Reduces words; one for each thread, its memory is kept between words. Always the merge of least rank
/// happens, of equals the leftmost.
class word_merger {
 public:
  /// Replaces `word` by what remains of it.
  void reduce(const merge_table& merges, std::vector<std::int32_t>& word) {
    if (word.size() <= 48)
      scan(merges, word);
    else
      sift(merges, word);
  }

 private:
  // Few tokens: looking at all of them is quicker than keeping them in order.
  void scan(const merge_table& merges, std::vector<std::int32_t>& word) {
    std::size_t size = word.size();
    pairs_.resize(size);
    for (std::size_t i = 0; i + 1 < size; ++i) pairs_[i] = merges.find(word[i], word[i + 1]);
    while (size > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < size; ++i)
        if (pairs_[i].rank < pairs_[best].rank) best = i;
      if (pairs_[best].rank == merge_table::none) break;
      word[best] = pairs_[best].token;
      --size;
      for (std::size_t i = best + 1; i < size; ++i) word[i] = word[i + 1], pairs_[i] = pairs_[i + 1];
      if (best > 0) pairs_[best - 1] = merges.find(word[best - 1], word[best]);
      if (best + 1 < size) pairs_[best] = merges.find(word[best], word[best + 1]);
    }
    word.resize(size);
  }

  // Many tokens: a linked list, and a heap of the pairs in it.
  void sift(const merge_table& merges, std::vector<std::int32_t>& word) {
    if (word.size() > largest)
      raise("tokenizer: a piece of " + std::to_string(word.size()) + " bytes found, expected at most " +
            std::to_string(largest) + " between two places where the text may be cut");
    const auto size = static_cast<std::int32_t>(word.size());
    links_.resize(word.size());
    const auto token = [&](std::int32_t i) -> std::int32_t& { return word[static_cast<std::size_t>(i)]; };
    const auto link = [&](std::int32_t i) -> neighbours& { return links_[static_cast<std::size_t>(i)]; };
    const auto offer = [&](std::int32_t left) {
      const std::int32_t right = link(left).next;
      const merge_table::merge found = merges.find(token(left), token(right));
      if (found.rank != merge_table::none)
        heap_.push({found.rank, left, right, token(left), token(right), found.token});
    };
    for (std::int32_t i = 0; i < size; ++i) link(i) = {i - 1, i + 1 < size ? i + 1 : -1};
    for (std::int32_t i = 0; i + 1 < size; ++i) offer(i);
    while (!heap_.empty()) {
      const candidate best = heap_.top();
      heap_.pop();
      // Stale where either side has merged since.
      if (token(best.at) != best.left || link(best.at).next != best.next || token(best.next) != best.right)
        continue;
      token(best.at) = best.result;
      token(best.next) = gone;
      const std::int32_t next = link(best.at).next = link(best.next).next;
      if (next >= 0) link(next).previous = best.at;
      if (link(best.at).previous >= 0) offer(link(best.at).previous);
      if (next >= 0) offer(best.at);
    }
    word.erase(std::remove(word.begin(), word.end(), gone), word.end());
  }

  struct neighbours {
    std::int32_t previous, next;
  };
  struct candidate {
    std::uint32_t rank;
    std::int32_t at, next, left, right, result;
    friend bool operator<(const candidate& a, const candidate& b) {  // the least is on top
      return std::tie(a.rank, a.at) > std::tie(b.rank, b.at);
    }
  };
  static constexpr std::int32_t gone = -1;
  static constexpr std::size_t largest = std::numeric_limits<std::int32_t>::max();

  std::vector<merge_table::merge> pairs_;
  std::vector<neighbours> links_;
  std::priority_queue<candidate> heap_;
};

}  // namespace dsv3::inline DSV3_ABI
