// SPDX-License-Identifier: MIT
// The embedding table on the GPU.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/memory/gather_rows.cuh>
#include <dsv3/op/embedding/embedding.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// Lists the tokens id after id, those of one id in order. The ids may come in any order, which says nothing
/// about sums; tokens without a row are left out, and `total`, 0 at first, counts the others.
///
/// A block looks at 32 neighbouring tokens. It lists those ids whose first token is among them, and for this
/// reads the ids of all tokens: cheaper than a sort up to far more tokens than a GPU trains on at once, as a
/// look into a table decides on each.
template <class Id>
__global__ void __launch_bounds__(256)
    embedding_order_kernel(view<const Id, 1> ids, Id vocab, misuse no_such_id, std::uint32_t* keys,
                           std::uint32_t* tokens, std::uint32_t* total) {
  constexpr int none = -1, slots = 1024, warps = 8, at_once = 4;
  __shared__ Id window[32];
  __shared__ int slot[slots], link[32];  // for each id modulo `slots` a token of the window, and the next one
  __shared__ int listed[32];             // whether the token is the first of its id
  __shared__ unsigned places[warps][32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const index_t n = ids.extent(0), first = static_cast<index_t>(blockIdx.x) * 32;

  for (int i = static_cast<int>(threadIdx.x); i < slots; i += 32 * warps) slot[i] = none;
  places[warp][lane] = 0;
  __syncthreads();
  if (warp == 0) {
    const index_t t = first + lane;
    Id id = t < n ? ids(t) : -1;
    if (id < -1 || id >= vocab) {
      no_such_id.report(t, id, vocab);
      id = -1;
    }
    window[lane] = id;
    const unsigned same = __match_any_sync(all_lanes, id);  // every lane takes part, whatever its id
    const bool leads = id >= 0 && __ffs(static_cast<int>(same)) - 1 == lane;
    listed[lane] = leads;
    link[lane] = leads ? atomicExch(&slot[id % slots], lane) : none;
  }
  __syncthreads();

  // The first token of the window with this id.
  const auto find = [&](Id id) {
    int w = id < 0 ? none : slot[id % slots];
    while (w != none && window[w] != id) w = link[w];
    return w;
  };
  // Calls visit(token, id) for the tokens of the warp's share from `from` on, 32 neighbours at a time in
  // order.
  const index_range share = split_range(n, warp, warps);
  const auto each_token = [&](index_t from, const auto& visit) {
    for (index_t base = from; base < share.end; base += 32 * at_once) {
      Id held[at_once];
#pragma unroll
      for (int j = 0; j < at_once; ++j)
        held[j] = base + 32 * j + lane < share.end ? ids(base + 32 * j + lane) : -1;
#pragma unroll
      for (int j = 0; j < at_once; ++j) visit(base + 32 * j + lane, held[j]);
    }
  };

  // 1. How many tokens each share has of each id, and whether any stands before the window's.
  each_token(share.begin, [&](index_t t, Id id) {
    const int w = find(id);
    if (w == none) return;
    if (t < first + w)
      atomicAnd(&listed[w], 0);
    else
      atomicAdd(&places[warp][w], 1u);
  });
  __syncthreads();

  // 2. A place in the list for each id, and in there for each share.
  if (warp == 0) {
    unsigned count = 0;
    if (listed[lane])
      for (int k = 0; k < warps; ++k) count += places[k][lane];
    unsigned end = count;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const unsigned before = __shfl_up_sync(all_lanes, end, step);
      if (lane >= step) end += before;
    }
    unsigned begin = lane == 31 ? atomicAdd(total, end) : 0;
    begin = __shfl_sync(all_lanes, begin, 31) + end - count;
    for (int k = 0; k < warps; ++k) {
      const unsigned here = places[k][lane];
      places[k][lane] = begin;
      begin += here;
    }
  }
  __syncthreads();

  // 3. The tokens to their places.
  each_token(share.begin > first ? share.begin : first, [&](index_t t, Id id) {
    int w = find(id);
    if (w != none && !listed[w]) w = none;
    const unsigned same = __match_any_sync(all_lanes, w);
    if (w != none) {
      const unsigned place = places[warp][w] + __popc(same & ((1u << lane) - 1));
      keys[place] = static_cast<std::uint32_t>(id);
      tokens[place] = static_cast<std::uint32_t>(t);
    }
    __syncwarp();
    if (w != none && __ffs(static_cast<int>(same)) - 1 == lane) places[warp][w] += __popc(same);
    __syncwarp();
  });
}

/// Adds the rows of dy whose tokens have the same id to that id's row of dtable, in order. A warp takes 32
/// places of the list and 32 packs of columns; it does the ids that begin there, to their end. Blocks count
/// `across` columns first, so that all of a long list begins at the same time.
template <class P, int Width>
__global__ void __launch_bounds__(128)
    embedding_backward_kernel(const std::uint32_t* keys, const std::uint32_t* tokens,
                              const std::uint32_t* total, unsigned across, view<const activation<P>, 2> dy,
                              view<gradient<P>, 2> dtable) {
  using acc = accumulator<P>;
  using T = activation<P>;
  constexpr unsigned at_once = 8, more_at_once = 16;  // rows of dy in flight
  constexpr std::uint32_t none = 0xFFFFFFFFu;
  const unsigned lane = threadIdx.x;
  const index_t count = *total, first = static_cast<index_t>(blockIdx.x / across) * 32, mine = first + lane;
  if (first >= count) return;
  const index_t column =
      (static_cast<index_t>(blockIdx.x % across * blockDim.y + threadIdx.y) * 32 + lane) * Width;
  const bool inside = column < dtable.extent(1);

  const std::uint32_t key = mine < count ? keys[mine] : none, token = mine < count ? tokens[mine] : 0;
  const std::uint32_t before = mine > 0 && mine < count ? keys[mine - 1] : none,
                      after = mine + 1 < count ? keys[mine + 1] : none;
  const unsigned begins = __ballot_sync(all_lanes, key != none && key != before);
  const unsigned ends = __ballot_sync(all_lanes, key != none && key != after);
  const unsigned live = __popc(__ballot_sync(all_lanes, key != none));
  if (begins == 0) return;

  acc sums[Width];
  const auto add = [&](const kept_pack<T, Width>& kept) {
    const auto slopes = kept.get();
#pragma unroll
    for (int i = 0; i < Width; ++i) sums[i] += acc(slopes[i]);
  };
  const auto store = [&](std::uint32_t id) {
    pack<gradient<P>, Width> row;
#pragma unroll
    for (int i = 0; i < Width; ++i) row[i] = gradient<P>(sums[i]);
    store_pack(dtable[id].data() + column, row);
  };

  for (unsigned from = __ffs(static_cast<int>(begins)) - 1; from < live; from += at_once) {
    kept_pack<T, Width> slopes[at_once];
    pack<gradient<P>, Width> rows[at_once];
    std::uint32_t id[at_once];
#pragma unroll
    for (unsigned k = 0; k < at_once; ++k) {
      id[k] = __shfl_sync(all_lanes, key, from + k);  // beyond `live` a number without use, as the next
      const index_t t = __shfl_sync(all_lanes, token, from + k);
      if (inside && from + k < live) {
        slopes[k] = kept_pack<T, Width>(dy[t].data() + column);
        if (begins >> (from + k) & 1) rows[k] = load_pack<Width>(dtable[id[k]].data() + column);
      }
    }
#pragma unroll
    for (unsigned k = 0; k < at_once; ++k)
      if (inside && from + k < live) {
        if (begins >> (from + k) & 1)
#pragma unroll
          for (int i = 0; i < Width; ++i) sums[i] = acc(rows[k][i]);
        add(slopes[k]);
        if (ends >> (from + k) & 1) store(id[k]);
      }
  }
  if (ends >> (live - 1) & 1) return;

  // The last id goes on behind these places.
  const std::uint32_t id = __shfl_sync(all_lanes, key, 31);
  for (index_t next = first + 32;; next += 32) {
    const index_t other = next + lane;
    const std::uint32_t held = other < count ? tokens[other] : 0;
    const unsigned end = __popc(__ballot_sync(all_lanes, other < count && keys[other] == id));
    for (unsigned from = 0; from < end; from += more_at_once) {
      kept_pack<T, Width> slopes[more_at_once];
#pragma unroll
      for (unsigned k = 0; k < more_at_once; ++k) {
        const index_t t = __shfl_sync(all_lanes, held, from + k);
        if (inside && from + k < end) slopes[k] = kept_pack<T, Width>(dy[t].data() + column);
      }
#pragma unroll
      for (unsigned k = 0; k < more_at_once; ++k)
        if (inside && from + k < end) add(slopes[k]);
    }
    if (end < 32) break;
  }
  if (inside) store(id);
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P>
struct implementation<op::embedding<P>, backend::cuda> {
  using op_type = op::embedding<P>;
  using backward_args = typename op_type::backward_args;

  /// Ids and tokens in the list's order, and how many there are.
  struct workspace {
    std::uint32_t *keys, *tokens, *total;
  };

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    const cuda::misuse no_such_id = cuda::misuse_of(
        ctx, "embedding.forward: ids[{}] is {}, expected -1 or an id below the vocabulary of {}");
    using map = cuda::detail::picked<weight<P>, activation<P>, cuda::detail::minus_one::zeros>;
    cuda::detail::launch_picked(args.name, ctx.stream, map{args.table, args.ids, args.y, no_such_id});
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_args& args) {
    const workspace w = scratch(ctx, ctx.scratch, args);
    const cuda::misuse no_such_id = cuda::misuse_of(
        ctx, "embedding.backward: ids[{}] is {}, expected -1 or an id below the vocabulary of {}");
    cuda::require(cudaMemsetAsync(w.total, 0, sizeof(*w.total), ctx.stream), args.name);
    cuda::launch(args.name, ctx.stream, {.grid = static_cast<unsigned>(ceil_div(args.ids.extent(0), 32))},
                 cuda::detail::embedding_order_kernel<std::int32_t>, args.ids,
                 static_cast<std::int32_t>(args.dtable.extent(0)), no_such_id, w.keys, w.tokens, w.total);
    constexpr int width = cuda::widest<gradient<P>>;
    if (args.dy.extent(1) % width == 0 && cuda::takes_packs<width>(args.dy) &&
        cuda::takes_packs<width>(args.dtable))
      add_rows<width>(ctx, args, w);
    else
      add_rows<1>(ctx, args, w);
  }

  template <class Ctx>
  static workspace scratch(const Ctx&, scratch_arena& arena, const backward_args& args) {
    const index_t tokens = args.ids.extent(0);
    return {arena.take<std::uint32_t>(tokens), arena.take<std::uint32_t>(tokens),
            arena.take<std::uint32_t>(1)};
  }

 private:
  template <int Width, class Ctx>
  static void add_rows(Ctx& ctx, const backward_args& args, const workspace& w) {
    constexpr index_t columns = 32 * 4 * Width;  // of a block
    const index_t across = ceil_div(args.dy.extent(1), columns);
    cuda::launch(args.name, ctx.stream,
                 {.grid = static_cast<unsigned>(across * ceil_div(args.ids.extent(0), 32)), .block = {32, 4}},
                 cuda::detail::embedding_backward_kernel<P, Width>, w.keys, w.tokens, w.total,
                 static_cast<unsigned>(across), args.dy, args.dtable);
  }
};

}  // namespace dsv3::inline DSV3_ABI
