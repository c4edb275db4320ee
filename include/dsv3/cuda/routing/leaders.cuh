// SPDX-License-Identifier: MIT
// The largest few of many numbers by one warp, in an order that does not depend on anything but the numbers:
// of equal ones the smaller index comes first, and a NaN ranks with minus infinity.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>

#include <cmath>
#include <cstdint>

namespace dsv3::inline DSV3_ABI::cuda {

/// Numbers as whole numbers of the same order, which warps compare in one instruction. 0 is no number's.
__device__ inline std::uint32_t rank_of(float x) {
  const std::uint32_t bits = __float_as_uint(x == x ? (x == 0 ? 0.0f : x) : -INFINITY);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline std::uint64_t rank_of(double x) {
  const auto bits =
      static_cast<std::uint64_t>(__double_as_longlong(x == x ? (x == 0 ? 0.0 : x) : -double(INFINITY)));
  return bits >> 63 ? ~bits : bits | 0x8000000000000000u;
}
/// The number of a rank.
__device__ inline float ranked(std::uint32_t rank) {
  return __uint_as_float(rank >> 31 ? rank & 0x7FFFFFFFu : ~rank);
}
__device__ inline double ranked(std::uint64_t rank) {
  return __longlong_as_double(static_cast<long long>(rank >> 63 ? rank & 0x7FFFFFFFFFFFFFFFu : ~rank));
}

__device__ inline std::uint32_t highest_lane(std::uint32_t rank) {
  return __reduce_max_sync(all_lanes, rank);
}
__device__ inline std::uint64_t highest_lane(std::uint64_t rank) {
  const auto upper = static_cast<std::uint32_t>(rank >> 32);
  const std::uint32_t top = __reduce_max_sync(all_lanes, upper);
  const auto lower = upper == top ? static_cast<std::uint32_t>(rank) : 0u;
  return static_cast<std::uint64_t>(top) << 32 | __reduce_max_sync(all_lanes, lower);
}

/// One of many ranks; as it stands, what comes before all of them.
template <class Rank>
struct leader {
  Rank rank = ~Rank(0);
  int index = -1;

  /// Whether `other` comes after this one.
  __device__ bool precedes(Rank other_rank, int other) const {
    return other_rank < rank || (other_rank == rank && other > index);
  }
};

/// The first of ranks[begin .. end) that comes after `last`; the same in every lane. There must be one, and a
/// rank of 0 is none.
template <class Rank>
__device__ __forceinline__ leader<Rank> next_leader(const Rank* ranks, int begin, int end,
                                                    leader<Rank> last) {
  Rank best = 0;
  unsigned at = ~0u;
  for (int i = begin + static_cast<int>(threadIdx.x % 32); i < end; i += 32)
    if (const Rank rank = ranks[i]; rank > best && last.precedes(rank, i))
      best = rank, at = static_cast<unsigned>(i);
  const Rank top = highest_lane(best);
  return {top, static_cast<int>(__reduce_min_sync(all_lanes, best == top ? at : ~0u))};
}

}  // namespace dsv3::inline DSV3_ABI::cuda
