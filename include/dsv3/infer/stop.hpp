// SPDX-License-Identifier: MIT
// When a generated sequence is finished, and after which token.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace dsv3::inline DSV3_ABI {

struct stop_conditions {
  index_t max_tokens = std::numeric_limits<index_t>::max();    // generated ones, the end token included
  std::vector<std::int32_t> end_ids = {};                      // a sequence ends with any of these tokens
  std::vector<std::vector<std::int32_t>> stop_sequences = {};  // or with any of these runs of tokens

  status check() const {
    if (max_tokens < 0)
      return status{"stop_conditions: max_tokens is " + std::to_string(max_tokens) + ", expected at least 0"};
    for (std::size_t i = 0; i < stop_sequences.size(); ++i)
      if (stop_sequences[i].empty())
        return status{"stop_conditions: stop sequence " + std::to_string(i) +
                      " is empty, expected at least one token"};
    return {};
  }
};

enum class finish {
  none,           // it goes on
  length,         // max_tokens are there
  end_token,      // its last token is an end token
  stop_sequence,  // its last tokens are a stop sequence
  context         // the model has no position for another token
};

inline const char* to_string(finish reason) {
  constexpr const char* names[] = {"none", "length", "end_token", "stop_sequence", "context"};
  return names[static_cast<int>(reason)];
}

struct stop_point {
  index_t tokens = 0;  // how many of the committed tokens stay
  finish reason = finish::none;
  index_t mark = 0;  // how many tokens at the end are the end token or the stop sequence, not text

  bool operator==(const stop_point&) const = default;
};

/// Where a sequence stops that has generated `generated` and is about to grow by `committed`: at the first
/// token that meets a condition; of conditions that it meets at once, an end token comes before a stop
/// sequence, before the length, before the context. Stop sequences may begin in `generated`, which must not
/// hold a whole one. `positions_left`: how many more tokens fit into the context.
inline stop_point find_stop(const stop_conditions& conditions, std::span<const std::int32_t> generated,
                            std::span<const std::int32_t> committed,
                            index_t positions_left = std::numeric_limits<index_t>::max()) {
  const index_t before = static_cast<index_t>(generated.size());
  const index_t length_left = std::max<index_t>(conditions.max_tokens - before, 0);
  const auto token = [&](index_t i) {
    return i < before ? generated[static_cast<std::size_t>(i)]
                      : committed[static_cast<std::size_t>(i - before)];
  };
  const auto ends_with = [&](const std::vector<std::int32_t>& run, index_t tokens) {
    const index_t length = static_cast<index_t>(run.size());
    if (length == 0 || length > tokens) return false;
    for (index_t i = 0; i < length; ++i)
      if (run[static_cast<std::size_t>(i)] != token(tokens - length + i)) return false;
    return true;
  };
  for (index_t kept = 0;; ++kept) {
    if (kept > 0) {
      const auto& ends = conditions.end_ids;
      if (std::find(ends.begin(), ends.end(), token(before + kept - 1)) != ends.end())
        return {kept, finish::end_token, 1};
      index_t longest = 0;
      for (const auto& run : conditions.stop_sequences)
        if (ends_with(run, before + kept)) longest = std::max(longest, static_cast<index_t>(run.size()));
      if (longest > 0) return {kept, finish::stop_sequence, longest};
    }
    if (kept >= length_left) return {kept, finish::length, 0};
    if (kept >= positions_left) return {kept, finish::context, 0};
    if (kept == static_cast<index_t>(committed.size())) return {kept, finish::none, 0};
  }
}

}  // namespace dsv3::inline DSV3_ABI
