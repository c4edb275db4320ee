// SPDX-License-Identifier: MIT
// Permutation on the GPU: a counting sort that keeps order, then rows copied and summed.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/expert/permute.hpp>

#include <algorithm>
#include <cstdint>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// The slots, in (token, slot) order, are shared among `sorters`: warps, each with neighbouring slots.
struct sorting {
  index_t slots, top_k, experts;
  index_t per_sorter;  // slots of each, a multiple of 32

  sorting(index_t tokens, index_t choices, index_t expert_count)
      : slots(tokens * choices),
        top_k(choices),
        experts(expert_count),
        per_sorter(std::max<index_t>(256, round_up(ceil_div(slots, 1024), 32))) {}
  DSV3_HOST_DEVICE index_t sorters() const { return ceil_div(slots, per_sorter); }
};

inline constexpr int sorters_per_block = 4;

// ---- kernels ----------------------------------------------------------------------------------------------

template <class Index>
__device__ __forceinline__ Index expert_of(const view<const Index, 2>& ids, const sorting& s, index_t slot) {
  return ids(slot / s.top_k, slot % s.top_k);
}

/// cursor[sorter, e] = how many of its slots a sorter sends to e. A slot whose expert does not exist counts
/// nowhere, and is reported unless it says that it has none.
template <class Index>
__global__ void __launch_bounds__(32 * sorters_per_block)
    count_slots_kernel(view<const Index, 2> ids, sorting s, view<Index, 2> cursor, misuse no_expert) {
  const index_t sorter = static_cast<index_t>(blockIdx.x) * sorters_per_block + threadIdx.x / 32;
  if (sorter >= s.sorters()) return;
  const index_t lane = threadIdx.x % 32, end = min((sorter + 1) * s.per_sorter, s.slots);
  Index* count = cursor[sorter].data();
  for (index_t e = lane; e < s.experts; e += 32) count[e] = 0;
  __syncwarp();
  for (index_t slot = sorter * s.per_sorter + lane; slot < end; slot += 32) {
    const Index e = expert_of(ids, s, slot);
    if (e >= 0 && e < s.experts)
      atomicAdd(count + e, Index(1));
    else if (e != -1)
      no_expert.report(slot / s.top_k, slot % s.top_k, e, s.experts - 1);
  }
}

/// For each expert, over the sorters: cursor becomes the sum of those before, counts the sum of all. A block
/// has 32 experts, one per lane, and 32 warps that share the sorters.
template <class Index>
__global__ void __launch_bounds__(1024) scan_sorters_kernel(view<Index, 2> cursor, Index* counts) {
  __shared__ Index sums[32][32];
  const index_t expert = static_cast<index_t>(blockIdx.x) * 32 + threadIdx.x % 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool live = expert < cursor.extent(1);
  const index_range range = split_range(cursor.extent(0), warp, 32);
  Index sum = 0;
  for (index_t i = range.begin; live && i < range.end; ++i) sum += cursor(i, expert);
  sums[warp][lane] = sum;
  __syncthreads();
  if (!live) return;
  Index running = 0;
  for (int w = 0; w < warp; ++w) running += sums[w][lane];
  if (warp == 31) counts[expert] = running + sum;
  for (index_t i = range.begin; i < range.end; ++i) {
    const Index count = cursor(i, expert);
    cursor(i, expert) = running;
    running += count;
  }
}

/// offsets from counts, by one block of 1024 threads. Nothing points beyond a segment or the capacity: what
/// has no room is reported.
template <class Index>
__global__ void __launch_bounds__(1024)
    place_experts_kernel(Index* counts, Index* offsets, permutation_config c, index_t capacity,
                         misuse too_many, misuse too_full) {
  __shared__ Index sums[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Index before = 0;  // rows of the experts of earlier rounds
  for (index_t first = 0; first < c.experts; first += blockDim.x) {
    const index_t e = first + threadIdx.x;
    Index rows = 0;
    if (e < c.experts) {
      const Index count = counts[e];
      rows = static_cast<Index>(c.masked ? c.tokens : round_up(count, c.alignment));
      if (c.masked && count > c.tokens) {
        too_many.report(e, count, c.tokens);
        counts[e] = rows;  // nobody may look beyond the segment
      }
    }
    Index sum = rows;  // up to and with this lane
    for (int step = 1; step < 32; step *= 2) {
      const Index other = __shfl_up_sync(all_lanes, sum, step);
      if (lane >= step) sum += other;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    for (int w = 0; w < warp; ++w) sum += sums[w];
    if (e < c.experts) {
      const index_t begin = min(static_cast<index_t>(before + sum - rows), capacity);
      offsets[e] = static_cast<Index>(begin);
      counts[e] = static_cast<Index>(min(static_cast<index_t>(counts[e]), capacity - begin));
    }
    for (int w = 0; w < 32; ++w) before += sums[w];
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  if (before > capacity) too_full.report(before, capacity);
  offsets[c.experts] = static_cast<Index>(min(static_cast<index_t>(before), capacity));
}

/// Every slot's row: its expert's first, plus the slots before it that chose the same expert. A sorter takes
/// its slots 32 at a time, lanes with the same expert in order.
template <class Index>
__global__ void __launch_bounds__(32 * sorters_per_block)
    place_slots_kernel(view<const Index, 2> ids, sorting s, view<Index, 2> cursor,
                       permutation_tensors<Index> plan) {
  const index_t sorter = static_cast<index_t>(blockIdx.x) * sorters_per_block + threadIdx.x / 32;
  if (sorter >= s.sorters()) return;
  const int lane = threadIdx.x % 32;
  const index_t begin = sorter * s.per_sorter, end = min(begin + s.per_sorter, s.slots);
  Index* next = cursor[sorter].data();
  for (index_t first = begin; first < end; first += 32) {
    const index_t slot = first + lane;
    Index e = slot < end ? expert_of(ids, s, slot) : -1;
    const bool exists = e >= 0 && e < s.experts;
    if (!exists) e = -1;
    const unsigned same = __match_any_sync(all_lanes, e);
    const int before = __popc(same & ((1u << lane) - 1));
    const Index from = exists ? next[e] : 0;
    __syncwarp();
    if (exists && before == 0) next[e] = from + __popc(same);
    __syncwarp();
    if (slot >= end) continue;
    Index row = no_row;
    if (exists) {
      row = lost_row;
      if (from + before < plan.counts(e)) {
        row = plan.offsets(e) + from + before;
        plan.token_of(row) = static_cast<Index>(slot / s.top_k);
      }
    }
    plan.row_of(slot / s.top_k, slot % s.top_k) = row;
  }
}

/// One block per token: its row is read once and written top_k times.
template <int Width, class T>
__global__ void __launch_bounds__(256)
    dispatch_rows_kernel(view<const T, 2> x, view<const std::int32_t, 2> row_of, view<T, 2> rows) {
  constexpr int in_flight = 4;
  const index_t t = blockIdx.x, top_k = row_of.extent(1), packs = x.extent(1) / Width;
  const std::int32_t* to = row_of[t].data();
  const T* from = x[t].data();
  for (index_t first = threadIdx.x; first < packs; first += in_flight * blockDim.x) {
    pack<T, Width> values[in_flight];
#pragma unroll
    for (int j = 0; j < in_flight; ++j)
      if (first + j * blockDim.x < packs)
        values[j] = load_pack<Width>(from + (first + j * blockDim.x) * Width);
    for (index_t k = 0; k < top_k; ++k) {
      if (to[k] < 0) continue;
      T* row = rows[to[k]].data();
#pragma unroll
      for (int j = 0; j < in_flight; ++j)
        if (first + j * blockDim.x < packs) store_pack(row + (first + j * blockDim.x) * Width, values[j]);
    }
  }
  if (threadIdx.x < x.extent(1) % Width)
    for (index_t k = 0; k < top_k; ++k)
      if (to[k] >= 0) rows(to[k], packs * Width + threadIdx.x) = from[packs * Width + threadIdx.x];
}

/// What stands for a row that a plan does not name: nothing, or what nobody overlooks.
template <class T>
__device__ __forceinline__ T instead_of_row(std::int32_t row) {
  return T(row == lost_row ? nanf("") : 0.0f);
}

/// The sum of one pack over a token's rows, in slot order. `add` may be y.
template <int Width, class Acc, class T>
__device__ __forceinline__ void combine_pack(const view<const T, 2>& rows, const std::int32_t* from,
                                             index_t top_k, const T* add, T* y, index_t at) {
  Acc sums[Width] = {};
  const auto include = [&](const pack<T, Width>& values) {
#pragma unroll
    for (int i = 0; i < Width; ++i) sums[i] += Acc(values[i]);
  };
  if (add != nullptr) include(load_pack<Width>(add + at));
  constexpr int in_flight = 4;
  for (index_t first = 0; first < top_k; first += in_flight) {
    pack<T, Width> values[in_flight];
#pragma unroll
    for (int j = 0; j < in_flight; ++j) {
      const std::int32_t row = first + j < top_k ? from[first + j] : no_row;
      if (row >= 0)
        values[j] = load_pack<Width>(rows.data() + row * rows.stride(0) + at);
      else
#pragma unroll
        for (int i = 0; i < Width; ++i) values[j][i] = instead_of_row<T>(row);
    }
#pragma unroll
    for (int j = 0; j < in_flight; ++j) include(values[j]);
  }
  pack<T, Width> result;
#pragma unroll
  for (int i = 0; i < Width; ++i) result[i] = T(sums[i]);
  store_pack(y + at, result);
}

/// One block per token.
template <int Width, class Acc, class T>
__global__ void __launch_bounds__(256)
    combine_rows_kernel(view<const T, 2> rows, view<const std::int32_t, 2> row_of, view<const T, 2> add,
                        view<T, 2> y) {
  const index_t t = blockIdx.x, top_k = row_of.extent(1), packs = y.extent(1) / Width;
  const std::int32_t* from = row_of[t].data();
  const T* first = add.empty() ? nullptr : add[t].data();
  for (index_t i = threadIdx.x; i < packs; i += blockDim.x)
    combine_pack<Width, Acc>(rows, from, top_k, first, y[t].data(), i * Width);
  if (threadIdx.x < y.extent(1) % Width)
    combine_pack<1, Acc>(rows, from, top_k, first, y[t].data(), packs * Width + threadIdx.x);
}

template <class T>
__global__ void dispatch_gates_kernel(view<const T, 2> gates, view<const std::int32_t, 2> row_of, T* to) {
  const index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x, top_k = row_of.extent(1);
  if (i >= row_of.size()) return;
  if (const std::int32_t row = row_of(i / top_k, i % top_k); row >= 0) to[row] = gates(i / top_k, i % top_k);
}

template <class T>
__global__ void combine_gates_kernel(const T* from, view<const std::int32_t, 2> row_of, view<T, 2> gates) {
  const index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x, top_k = row_of.extent(1);
  if (i >= row_of.size()) return;
  const std::int32_t row = row_of(i / top_k, i % top_k);
  gates(i / top_k, i % top_k) = row >= 0 ? from[row] : instead_of_row<T>(row);
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

namespace cuda {

/// One block per row, with threads for four packs each.
template <class T, class Element>
launch_shape block_per_row(const view<Element, 2>& x) {
  const index_t threads = round_up(ceil_div(x.extent(1), 4 * widest<T>), 32);
  return {.grid = x.empty() ? 0u : static_cast<unsigned>(x.extent(0)),
          .block = static_cast<unsigned>(std::clamp<index_t>(threads, 32, 256))};
}

/// rows[row_of(t, k)] = x[t], for elements of any size.
template <class T>
void dispatch_rows(const char* name, cudaStream_t stream, const view<const T, 2>& x,
                   const view<const std::int32_t, 2>& row_of, const view<T, 2>& rows) {
  constexpr int width = widest<T>;
  const bool packs =
      takes_packs<width>(x.data(), x.stride(0)) && takes_packs<width>(rows.data(), rows.stride(0));
  launch(name, stream, block_per_row<T>(x),
         packs ? detail::dispatch_rows_kernel<width, T> : detail::dispatch_rows_kernel<1, T>, x, row_of,
         rows);
}

}  // namespace cuda

template <class P>
struct implementation<op::permute<P>, backend::cuda> {
  using op_type = op::permute<P>;
  using acc = accumulator<P>;
  using number = activation<P>;
  using plan_args = typename op_type::plan_args;

  /// [sorters, experts]: how many of its slots a sorter sends to each expert; after the scan, how many such
  /// slots come before the next.
  template <class Ctx>
  static view<std::int32_t, 2> scratch(const Ctx&, scratch_arena& arena, const plan_args& args) {
    return arena.tensor<std::int32_t>(sorting_of(args).sorters(), args.plan.config.experts);
  }

  // 1. sorters count, 2. a scan over the sorters and one over the experts find the rows, 3. sorters place.
  // Whatever nobody is placed in is padding.
  template <class Ctx>
  static void run(Ctx& ctx, const plan_args& args) {
    const view<std::int32_t, 2> cursor = scratch(ctx, ctx.scratch, args);
    const permutation& plan = args.plan;
    const cuda::detail::sorting s = sorting_of(args);
    const char* name = plan_args::name;
    if (!plan.token_of.empty())
      cuda::require(cudaMemsetAsync(plan.token_of.data(), 0xFF,
                                    sizeof(std::int32_t) * static_cast<std::size_t>(plan.token_of.extent(0)),
                                    ctx.stream),
                    name);
    const cuda::launch_shape sorters{
        .grid = static_cast<unsigned>(ceil_div(s.sorters(), cuda::detail::sorters_per_block)),
        .block = 32 * cuda::detail::sorters_per_block};
    cuda::launch(name, ctx.stream, sorters, cuda::detail::count_slots_kernel<std::int32_t>, args.ids, s,
                 cursor,
                 cuda::misuse_of(
                     ctx, "permute.plan: token {}, slot {} has expert {}, expected 0 to {}, or -1 for none"));
    cuda::launch(name, ctx.stream,
                 {.grid = static_cast<unsigned>(ceil_div(plan.config.experts, 32)), .block = 1024},
                 cuda::detail::scan_sorters_kernel<std::int32_t>, cursor, plan.counts.data());
    cuda::launch(name, ctx.stream, {.block = 1024}, cuda::detail::place_experts_kernel<std::int32_t>,
                 plan.counts.data(), plan.offsets.data(), plan.config, plan.config.row_capacity(),
                 cuda::misuse_of(ctx,
                                 "permute.plan: expert {} is chosen {} times by {} tokens, expected at most "
                                 "once each in the masked layout"),
                 cuda::misuse_of(ctx,
                                 "permute.plan: the experts are given {} rows, padding included, there is "
                                 "room for {}"));
    cuda::launch(name, ctx.stream, sorters, cuda::detail::place_slots_kernel<std::int32_t>, args.ids, s,
                 cursor, plan);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::dispatch_args& args) {
    cuda::dispatch_rows<number>(op_type::dispatch_args::name, ctx.stream, args.x, args.plan.row_of,
                                args.rows);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::combine_args& args) {
    const bool packs = takes_packs(args.rows, args.y) && (args.add.empty() || takes_packs(args.add, args.y));
    const auto kernel = packs ? cuda::detail::combine_rows_kernel<width, acc, number>
                              : cuda::detail::combine_rows_kernel<1, acc, number>;
    cuda::launch(op_type::combine_args::name, ctx.stream, cuda::block_per_row<number>(args.y), kernel,
                 args.rows, args.plan.row_of, args.add, args.y);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::dispatch_gates_args& args) {
    cuda::launch(op_type::dispatch_gates_args::name, ctx.stream, slots_of(args.gates),
                 cuda::detail::dispatch_gates_kernel<acc>, args.gates, args.plan.row_of,
                 args.row_gates.data());
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::combine_gates_args& args) {
    cuda::launch(op_type::combine_gates_args::name, ctx.stream, slots_of(args.gates),
                 cuda::detail::combine_gates_kernel<acc>, args.row_gates.data(), args.plan.row_of,
                 args.gates);
  }

 private:
  static constexpr int width = cuda::widest<number>;

  static cuda::detail::sorting sorting_of(const plan_args& args) {
    return {args.ids.extent(0), args.ids.extent(1), args.plan.config.experts};
  }

  static bool takes_packs(const view<const number, 2>& a, const view<const number, 2>& b) {
    return cuda::takes_packs<width>(a.data(), a.stride(0)) && cuda::takes_packs<width>(b.data(), b.stride(0));
  }

  static cuda::launch_shape slots_of(const view<const acc, 2>& gates) {
    return {.grid = static_cast<unsigned>(ceil_div(gates.size(), 256))};
  }
};

}  // namespace dsv3::inline DSV3_ABI
