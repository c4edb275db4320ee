// SPDX-License-Identifier: MIT
// Byte-pair encoding, learned: from counted words to the pairs that are joined, most frequent first.
#pragma once

#include <dsv3/base/config.hpp>
#include <dsv3/base/index.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// A vocabulary, and the pairs of its ids in the order in which they are joined.
struct learned_pairs {
  std::vector<std::string> tokens;  // by id
  std::vector<std::pair<std::int32_t, std::int32_t>> merges;
};

namespace detail {

/// What is known of each pair of ids: open addressing, nothing is ever removed.
class pair_table {
 public:
  struct record {
    std::uint64_t key = vacant;
    index_t count = 0;         // of its occurrences in the text
    std::int32_t places = -1;  // list that collects where it appeared in this step; -1: it did not
  };
  static constexpr std::uint64_t vacant = ~std::uint64_t{0};

  static std::uint64_t key_of(std::uint32_t left, std::uint32_t right) {
    return (std::uint64_t{left} << 32) | right;
  }

  /// The record of a pair, made where there is none. It stays where it is until the next call.
  record& at(std::uint64_t key) {
    if (2 * (used_ + 1) > records_.size()) grow();
    record& found = records_[slot(key)];
    if (found.key == vacant) {
      found.key = key;
      ++used_;
    }
    return found;
  }

 private:
  std::size_t slot(std::uint64_t key) const {
    std::uint64_t mixed = key * 0x9E3779B97F4A7C15u;
    mixed ^= mixed >> 32;
    std::size_t at = static_cast<std::size_t>(mixed) & (records_.size() - 1);
    while (records_[at].key != vacant && records_[at].key != key) at = (at + 1) & (records_.size() - 1);
    return at;
  }
  void grow() {
    std::vector<record> before(2 * records_.size());
    before.swap(records_);
    for (const record& each : before)
      if (each.key != vacant) records_[slot(each.key)] = each;
  }

  std::vector<record> records_ = std::vector<record>(1024);
  std::size_t used_ = 0;
};

/// Words as ids, one after the other; a word shrinks in its place.
class word_ids {
 public:
  void add(std::string_view word, index_t count, const std::array<std::uint32_t, 256>& id_of_byte) {
    words_.push_back({ids_.size(), static_cast<std::uint32_t>(word.size()), count});
    for (const char byte : word) ids_.push_back(id_of_byte[static_cast<unsigned char>(byte)]);
  }
  std::uint32_t size() const { return static_cast<std::uint32_t>(words_.size()); }

  /// Calls changed(left, right, by) for every pair of a word, `by` being how often the text holds the word.
  template <class Changed>
  void each_pair(std::uint32_t word, Changed&& changed) const {
    const entry& at = words_[word];
    for (std::size_t i = at.begin; i + 1 < at.begin + at.length; ++i) changed(ids_[i], ids_[i + 1], at.count);
  }

  /// Joins left and right wherever they stand beside each other, from the beginning on; calls
  /// changed(left, right, by) for every pair beside them that goes (by < 0) or comes.
  template <class Changed>
  void join(std::uint32_t word, std::uint32_t left, std::uint32_t right, std::uint32_t joined,
            Changed&& changed) {
    entry& at = words_[word];
    std::uint32_t* const ids = ids_.data() + at.begin;
    std::uint32_t kept = 0;
    for (std::uint32_t i = 0; i < at.length; ++i) {
      if (ids[i] != left || i + 1 == at.length || ids[i + 1] != right) {
        ids[kept++] = ids[i];
        continue;
      }
      if (kept > 0) {
        changed(ids[kept - 1], left, -at.count);
        changed(ids[kept - 1], joined, at.count);
      }
      if (i + 2 < at.length) {
        changed(right, ids[i + 2], -at.count);
        changed(joined, ids[i + 2], at.count);
      }
      ids[kept++] = joined;
      ++i;
    }
    at.length = kept;
  }

 private:
  struct entry {
    std::size_t begin;
    std::uint32_t length;
    index_t count;
  };
  std::vector<std::uint32_t> ids_;
  std::vector<entry> words_;
};

}  // namespace detail

/// Joins the most frequent pair again and again (Sennrich et al., 2016) until there are `vocab` tokens, or no
/// pair is left that appears `min_frequency` times. Between equal counts the pair of smaller ids wins.
///
/// Each step costs what it changes: a pair's count is kept up to date, with the words it appeared in, and a
/// heap entry whose count is out of date goes back with the right one. Pairs with a token come to be in the
/// step that makes the token and in no other, so one list of words for each pair is enough. The merges are
/// those of the BPE trainer of Hugging Face's tokenizers.
///
/// `tokens` are those before the first merge; id_of_byte gives the one of each byte. `progress`, if set, is
/// called with the number of tokens now and then.
inline learned_pairs learn_pairs(detail::word_ids words, std::vector<std::string> tokens, index_t vocab,
                                 index_t min_frequency,
                                 const std::function<void(index_t)>& progress = nullptr) {
  using table = detail::pair_table;
  struct entry {
    index_t count;
    std::uint64_t key;
    std::int32_t places;
    bool operator<(const entry& other) const {  // the heap's top is the greatest
      if (count != other.count) return count < other.count;
      return key != other.key ? key > other.key : places > other.places;
    }
  };
  std::unordered_map<std::string, std::uint32_t> id_of;
  for (std::uint32_t id = 0; id < tokens.size(); ++id) id_of.emplace(tokens[id], id);

  table pairs;
  std::vector<std::vector<std::uint32_t>> places;  // words, each once and in their order
  std::vector<std::uint64_t> touched;              // pairs that appeared in this step
  std::vector<entry> heap;
  const auto changed = [&](std::uint32_t word, std::uint32_t left, std::uint32_t right, index_t by) {
    table::record& record = pairs.at(table::key_of(left, right));
    record.count += by;
    if (by < 0) return;
    if (record.places < 0) {
      record.places = static_cast<std::int32_t>(places.size());
      places.emplace_back();
      touched.push_back(record.key);
    }
    std::vector<std::uint32_t>& list = places[static_cast<std::size_t>(record.places)];
    if (list.empty() || list.back() != word) list.push_back(word);
  };
  const auto push = [&](const entry& each) {
    heap.push_back(each);
    std::push_heap(heap.begin(), heap.end());
  };
  const auto push_touched = [&] {
    for (const std::uint64_t key : touched) {
      table::record& record = pairs.at(key);
      if (record.count > 0) push({record.count, key, record.places});
      record.places = -1;
    }
    touched.clear();
  };

  for (std::uint32_t word = 0; word < words.size(); ++word)
    words.each_pair(word, [&](auto left, auto right, index_t by) { changed(word, left, right, by); });
  push_touched();

  std::vector<std::pair<std::int32_t, std::int32_t>> merges;
  while (static_cast<index_t>(id_of.size()) < vocab && !heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    entry top = heap.back();
    heap.pop_back();
    if (const index_t count = pairs.at(top.key).count; count != top.count) {
      top.count = count;
      push(top);
      continue;
    }
    if (top.count < std::max<index_t>(min_frequency, 1)) break;

    const auto left = static_cast<std::uint32_t>(top.key >> 32), right = static_cast<std::uint32_t>(top.key);
    const auto [found, inserted] =
        id_of.emplace(tokens[left] + tokens[right], static_cast<std::uint32_t>(tokens.size()));
    if (inserted) tokens.push_back(found->first);
    merges.emplace_back(left, right);
    const std::vector<std::uint32_t> where = std::move(places[static_cast<std::size_t>(top.places)]);
    for (const std::uint32_t word : where)
      words.join(word, left, right, found->second,
                 [&](auto a, auto b, index_t by) { changed(word, a, b, by); });
    push_touched();
    if (progress && tokens.size() % 256 == 0) progress(static_cast<index_t>(tokens.size()));
  }

  return {std::move(tokens), std::move(merges)};
}

}  // namespace dsv3::inline DSV3_ABI
