// SPDX-License-Identifier: MIT
// Sums of whole weights by a thread block, and where a running sum passes a number: how a token is drawn.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/number/wide.hpp>

namespace dsv3::inline DSV3_ABI::cuda {

/// The warps of the blocks that work on one row of weights.
inline constexpr int weight_warps = 24;

__device__ __forceinline__ std::uint64_t shuffle_up(std::uint64_t x, int step) {
  return __shfl_up_sync(all_lanes, static_cast<unsigned long long>(x), step);
}
__device__ __forceinline__ uint128 shuffle_up(uint128 x, int step) {
  const std::uint64_t high = shuffle_up(static_cast<std::uint64_t>(x >> 64), step);
  return uint128{high} << 64 | shuffle_up(static_cast<std::uint64_t>(x), step);
}
__device__ __forceinline__ std::uint64_t from_lane(std::uint64_t x, int lane) {
  return __shfl_sync(all_lanes, static_cast<unsigned long long>(x), lane);
}
__device__ __forceinline__ uint128 from_lane(uint128 x, int lane) {
  const std::uint64_t high = from_lane(static_cast<std::uint64_t>(x >> 64), lane);
  return uint128{high} << 64 | from_lane(static_cast<std::uint64_t>(x), lane);
}

/// The sum over this lane and those below it.
template <class Sum>
__device__ __forceinline__ Sum running_sum(Sum x) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Sum other = shuffle_up(x, step);
    if (static_cast<int>(threadIdx.x % 32) >= step) x += other;
  }
  return x;
}

/// use(v, load(v)) for every v below count, by a block; eight loads of a thread are under way together.
template <class Load, class Use>
__device__ __forceinline__ void for_each_loaded(index_t count, const Load& load, const Use& use) {
  constexpr int batch = 8;
  const index_t step = blockDim.x;
  index_t v = threadIdx.x;
  for (; v + (batch - 1) * step < count; v += batch * step) {
    decltype(load(v)) loaded[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i) loaded[i] = load(v + i * step);
#pragma unroll
    for (int i = 0; i < batch; ++i) use(v + i * step, loaded[i]);
  }
  for (; v < count; v += step) use(v, load(v));
}

/// The sum of what the threads of a block of weight_warps warps hold, to every thread. `parts` is shared
/// memory for weight_warps sums, and is left with those of the warps.
template <class Sum>
__device__ Sum sum_of_warps(Sum sum, Sum* parts) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  sum = from_lane(running_sum(sum), 31);
  __syncthreads();
  if (lane == 0) parts[warp] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < weight_warps; ++w) sum += parts[w];
  return sum;
}

/// Σ weight(v), v < count, by a block of weight_warps warps. Each warp sums a stretch of neighbours, which
/// are left in `stretches`, shared memory for weight_warps sums; every thread gets the whole sum.
template <class Sum, class Weight>
__device__ Sum sum_stretches(index_t count, const Weight& weight, Sum* stretches) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const index_t length = ceil_div(count, index_t{weight_warps}), end = min((warp + 1) * length, count);
  Sum sum = 0;
#pragma unroll 8
  for (index_t v = warp * length + lane; v < end; v += 32) sum += weight(v);
  return sum_of_warps(sum, stretches);
}

/// The smallest v with Σ_{u <= v} weight(u) > bound, -1 where there is none, of weights whose stretches were
/// summed; what stands in `stretches` is lost. Written to `found`, shared memory, and returned to every
/// thread.
template <class Sum, class Weight>
__device__ index_t first_above(Sum bound, index_t count, const Weight& weight, Sum* stretches,
                               index_t* found) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  index_t begin = 0, end = count;
  // The stretch that holds it, and of this one the stretch: what is left one warp walks through.
  for (int round = 0;; ++round) {
    int owner = 0;
    while (owner < weight_warps && bound >= stretches[owner]) bound -= stretches[owner++];
    if (owner == weight_warps) return -1;
    const index_t length = ceil_div(end - begin, index_t{weight_warps});
    begin += owner * length, end = min(begin + length, end);
    if (round == 1 || end - begin <= 128) break;
    sum_stretches(
        end - begin, [&](index_t v) { return weight(begin + v); }, stretches);
  }
  if (warp == 0)
    for (index_t first = begin; first < end; first += 32) {
      const Sum reached = running_sum(first + lane < end ? Sum(weight(first + lane)) : Sum(0));
      if (const unsigned above = __ballot_sync(all_lanes, bound < reached); above != 0) {
        if (lane == 0) *found = first + __ffs(static_cast<int>(above)) - 1;
        break;
      }
      bound -= from_lane(reached, 31);
    }
  __syncthreads();
  return *found;
}

}  // namespace dsv3::inline DSV3_ABI::cuda
