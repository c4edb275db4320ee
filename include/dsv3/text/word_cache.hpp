// SPDX-License-Identifier: MIT
// What words were encoded to, so that a word met again is only looked up.
#pragma once

#include <dsv3/base/config.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Bytes -> ids, for words up to `longest` bytes. Grows with the words it meets; when full it begins again,
/// so its memory is bounded (about 8 MiB).
class word_cache {
 public:
  static constexpr std::size_t longest = 64;

  static std::uint64_t hash(std::string_view word) {
    std::uint64_t sum = word.size() * 0x9E3779B97F4A7C15u;
    for (; word.size() > 8; word.remove_prefix(8)) sum = mixed(sum ^ eight_of(word, 8));
    return mixed(sum ^ eight_of(word, word.size()));
  }

  /// The ids of a word with this hash, valid until the next `put`; nothing where it was not put.
  std::optional<std::span<const std::int32_t>> find(std::string_view word, std::uint64_t hash) const {
    if (slots_.empty()) return {};
    const slot& found = slots_[place(word, hash)];
    if (found.count == 0) return {};
    return std::span(ids_).subspan(found.ids, found.count);
  }

  void put(std::string_view word, std::uint64_t hash, std::span<const std::int32_t> ids) {
    if (2 * (words_ + 1) > slots_.size()) grow();
    slots_[place(word, hash)] = {
        hash, static_cast<std::uint32_t>(bytes_.size()), static_cast<std::uint32_t>(ids_.size()),
        static_cast<std::uint16_t>(word.size()), static_cast<std::uint16_t>(ids.size())};
    bytes_ += word;
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    ++words_;
  }

 private:
  struct slot {
    std::uint64_t hash = 0;
    std::uint32_t bytes = 0, ids = 0;
    std::uint16_t size = 0, count = 0;  // no ids: an empty slot
  };
  static constexpr std::size_t most_slots = std::size_t{1} << 18;

  static std::uint64_t eight_of(std::string_view text, std::size_t count) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, text.data(), count);
    return eight;
  }
  static std::uint64_t mixed(std::uint64_t x) {
    x *= 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
  }

  std::size_t place(std::string_view word, std::uint64_t hash) const {
    std::size_t at = hash & (slots_.size() - 1);
    for (; slots_[at].count != 0; at = (at + 1) & (slots_.size() - 1)) {
      const slot& here = slots_[at];
      if (here.hash == hash && here.size == word.size() &&
          std::memcmp(bytes_.data() + here.bytes, word.data(), word.size()) == 0)
        break;
    }
    return at;
  }

  void grow() {
    std::vector<slot> before = std::move(slots_);
    slots_.assign(std::clamp<std::size_t>(2 * before.size(), 256, most_slots), {});
    if (before.size() == most_slots) {
      bytes_.clear(), ids_.clear(), words_ = 0;
      return;
    }
    for (const slot& kept : before) {
      if (kept.count == 0) continue;
      std::size_t at = kept.hash & (slots_.size() - 1);
      while (slots_[at].count != 0) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = kept;
    }
  }

  std::vector<slot> slots_;
  std::string bytes_;
  std::vector<std::int32_t> ids_;
  std::size_t words_ = 0;
};

}  // namespace dsv3::inline DSV3_ABI
