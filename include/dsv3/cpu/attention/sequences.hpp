// SPDX-License-Identifier: MIT
// What attention asks of packed sequences and of the latent cache before it follows their numbers.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/tensor/packed_sequences.hpp>
#include <dsv3/tensor/paged.hpp>

#include <algorithm>
#include <string>

namespace dsv3::inline DSV3_ABI::cpu {

inline index_range tokens_of(const packed_sequences& sequence, index_t index) {
  return {sequence.offsets(index), sequence.offsets(index + 1)};
}

/// The sequences cover the tokens one after the other and are no longer than they say.
inline void require_offsets(const packed_sequences& sequence, const char* name) {
  const auto refuse = [&](const std::string& found) { raise(std::string(name) + ": " + found); };
  index_t reached = 0;
  for (index_t s = 0; s < sequence.sequences(); ++s) {
    const auto [begin, end] = tokens_of(sequence, s);
    if (begin != reached || end < begin)
      refuse("sequence " + std::to_string(s) + " has the tokens [" + std::to_string(begin) + ", " +
             std::to_string(end) + "), it must begin at " + std::to_string(reached) + " and not end before");
    if (end - begin > sequence.max_length)
      refuse("sequence " + std::to_string(s) + " has " + std::to_string(end - begin) +
             " tokens, max_length is " + std::to_string(sequence.max_length));
    reached = end;
  }
  if (reached != sequence.tokens())
    refuse("the sequences end at token " + std::to_string(reached) + ", there are " +
           std::to_string(sequence.tokens()) + " tokens");
}

/// Rows that a sequence of the cache may have.
template <class T>
index_t capacity_of(const paged_view<T>& cache) {
  return cache.table.extent(1) * cache.page_rows();
}

/// Every row in use lies in a page of the pool.
template <class T>
void require_pages(const paged_view<T>& cache, const char* name) {
  const auto refuse = [&](const std::string& found) { raise(std::string(name) + ": " + found); };
  for (index_t b = 0; b < cache.lengths.extent(0); ++b) {
    const index_t length = cache.lengths(b);
    if (length < 0 || length > capacity_of(cache))
      refuse("cache.lengths has " + std::to_string(length) + " rows for sequence " + std::to_string(b) +
             ", its pages hold " + std::to_string(capacity_of(cache)));
    for (index_t at = 0; at * cache.page_rows() < length; ++at)
      if (const index_t page = cache.table(b, at); page < 0 || page >= cache.pages.extent(0))
        refuse("cache.table has page " + std::to_string(page) + " for sequence " + std::to_string(b) +
               ", there are " + std::to_string(cache.pages.extent(0)) + " pages");
  }
}

/// Calls visit(first, rows) for the rows [begin, end) of a sequence in order, as many at a time as lie side
/// by side: `rows` [count, width] are its rows first .. first + count - 1.
template <class T, class Visit>
void each_stretch(const paged_view<T>& cache, index_t sequence, index_t begin, index_t end, Visit&& visit) {
  for (index_t first = begin; first < end;) {
    const index_t page = first / cache.page_rows(), at = first % cache.page_rows();
    const index_t count = std::min(end - first, cache.page_rows() - at);
    visit(first, cache.pages[cache.table(sequence, page)].rows(at, at + count));
    first += count;
  }
}

}  // namespace dsv3::inline DSV3_ABI::cpu
