// SPDX-License-Identifier: MIT
// The latent cache as kernels see it: whose a token is, where a row lies, and what is reported where the
// numbers of the cache point nowhere. They are on the device, so nobody looks at them before: every kernel
// keeps within bounds whatever they are.
#pragma once

#include <dsv3/cuda/attention/sequences.cuh>
#include <dsv3/tensor/paged.hpp>

namespace dsv3::inline DSV3_ABI::cuda {

/// Rows that a sequence of the cache may have.
template <class T>
DSV3_HOST_DEVICE index_t capacity_of(const paged_view<T>& cache) {
  return cache.table.extent(1) * cache.page_rows();
}

/// The sequence of a token, -1 where no sequence has it.
__device__ __forceinline__ index_t sequence_of(const packed_sequences& sequences, index_t token) {
  index_t low = 0, high = sequences.sequences();  // the answer, if there is one, is in [low, high)
  while (low < high) {
    const index_t middle = (low + high) / 2;
    if (sequences.offsets(middle + 1) <= token)
      low = middle + 1;
    else
      high = middle;
  }
  return low < sequences.sequences() && sequences.offsets(low) <= token ? low : -1;
}

/// Rows in use of a sequence, as many as its pages hold at most.
template <class T>
__device__ __forceinline__ index_t length_of(const paged_view<T>& cache, index_t sequence) {
  return min(max(index_t{cache.lengths(sequence)}, index_t{0}), capacity_of(cache));
}

/// Row j of a sequence; null where it lies nowhere.
template <class T>
__device__ __forceinline__ T* row_of(const paged_view<T>& cache, index_t sequence, index_t j) {
  if (j < 0 || j >= capacity_of(cache)) return nullptr;
  const unsigned rows = static_cast<unsigned>(cache.page_rows()), at = static_cast<unsigned>(j);
  const index_t page = cache.table(sequence, at / rows);
  return page < 0 || page >= cache.pages.extent(0) ? nullptr : cache.pages[page][at % rows].data();
}

/// The breaches of the cache's numbers, as sentences of one operation.
struct cache_misuse {
  misuse length, page;
};
template <class Ctx>
cache_misuse cache_misuse_of(Ctx& ctx, const char* name) {
  return {misuse_of(ctx, "cache.lengths has {} rows for sequence {}, its pages hold {}", name),
          misuse_of(ctx, "cache.table has page {} for sequence {}, there are {} pages", name)};
}

/// Reports what is wrong with the cached rows of one sequence; by a warp for each.
template <class T>
__device__ void check_cache(const paged_view<T>& cache, index_t sequence, const cache_misuse& wrong) {
  const index_t length = cache.lengths(sequence), lane = threadIdx.x % 32;
  if (length < 0 || length > capacity_of(cache)) {
    if (lane == 0) wrong.length.report(length, sequence, capacity_of(cache));
    return;
  }
  for (index_t at = lane; at * cache.page_rows() < length; at += 32)
    if (const index_t page = cache.table(sequence, at); page < 0 || page >= cache.pages.extent(0))
      wrong.page.report(page, sequence, cache.pages.extent(0));
}

}  // namespace dsv3::inline DSV3_ABI::cuda
