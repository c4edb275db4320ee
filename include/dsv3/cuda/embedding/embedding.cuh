// SPDX-License-Identifier: MIT
// The embedding table on the GPU.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/memory/gather_rows.cuh>
#include <dsv3/op/embedding/embedding.hpp>

#include <cub/device/device_radix_sort.cuh>

#include <bit>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// Every token beside its id; those without a row of the table get the first id beyond it, which sorts last.
template <class Id>
__global__ void __launch_bounds__(256)
    embedding_keys_kernel(view<const Id, 1> ids, std::uint32_t vocab, std::uint32_t* keys,
                          std::uint32_t* tokens, misuse no_such_id) {
  const index_t t = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (t >= ids.extent(0)) return;
  const Id id = ids(t);
  const bool known = id >= 0 && static_cast<std::uint32_t>(id) < vocab;
  if (!known && id != -1) no_such_id.report(t, id, vocab);
  keys[t] = known ? static_cast<std::uint32_t>(id) : vocab;
  tokens[t] = static_cast<std::uint32_t>(t);
}

/// Adds the rows of dy whose tokens have the same id to that id's row of dtable. A warp takes 32 neighbours
/// of the tokens sorted by id, and 32 packs of columns; it does the ids that begin among its tokens, to their
/// end, row after row. blockIdx.x counts neighbourhoods; y and threadIdx.y count the columns.
template <class P, int Width>
__global__ void __launch_bounds__(128)
    embedding_backward_kernel(const std::uint32_t* keys, const std::uint32_t* tokens, index_t count,
                              view<const activation<P>, 2> dy, view<gradient<P>, 2> dtable) {
  using acc = accumulator<P>;
  using T = activation<P>;
  constexpr unsigned at_once = 8;  // rows of dy in flight
  constexpr std::uint32_t none = 0xFFFFFFFFu;
  const unsigned lane = threadIdx.x;
  const auto vocab = static_cast<std::uint32_t>(dtable.extent(0));
  const index_t first = static_cast<index_t>(blockIdx.x) * 32, mine = first + lane;
  const index_t column = ((static_cast<index_t>(blockIdx.y) * blockDim.y + threadIdx.y) * 32 + lane) * Width;
  const bool inside = column < dtable.extent(1);

  const std::uint32_t key = mine < count ? keys[mine] : none, token = mine < count ? tokens[mine] : 0;
  const std::uint32_t before = mine > 0 && mine < count ? keys[mine - 1] : none;
  unsigned heads = __ballot_sync(all_lanes, key < vocab && key != before);
  while (heads != 0) {
    const unsigned head = __ffs(static_cast<int>(heads)) - 1;
    heads &= heads - 1;
    const std::uint32_t id = __shfl_sync(all_lanes, key, head);
    pack<gradient<P>, Width> row;
    acc sums[Width];
    if (inside) row = load_pack<Width>(dtable[id].data() + column);
#pragma unroll
    for (int i = 0; i < Width; ++i) sums[i] = inside ? acc(row[i]) : acc(0);

    // The tokens of the id, lanes [from, end) of `held`: first in this neighbourhood, then in those after it.
    std::uint32_t held = token;
    unsigned from = head, end = head + __popc(__ballot_sync(all_lanes, key == id));
    for (index_t next = first + 32;; next += 32) {
      for (; from < end; from += at_once) {
        pack<T, Width> slopes[at_once];
#pragma unroll
        for (unsigned k = 0; k < at_once; ++k) {
          const index_t t = __shfl_sync(all_lanes, held, from + k);  // beyond `end` a number without use
          if (inside && from + k < end) slopes[k] = load_pack<Width>(dy[t].data() + column);
        }
#pragma unroll
        for (unsigned k = 0; k < at_once; ++k)
          if (inside && from + k < end)
#pragma unroll
            for (int i = 0; i < Width; ++i) sums[i] += acc(slopes[k][i]);
      }
      if (end < 32) break;
      const index_t other = next + lane;
      held = other < count ? tokens[other] : 0;
      from = 0, end = __popc(__ballot_sync(all_lanes, other < count && keys[other] == id));
    }
    if (inside) {
#pragma unroll
      for (int i = 0; i < Width; ++i) row[i] = gradient<P>(sums[i]);
      store_pack(dtable[id].data() + column, row);
    }
  }
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P>
struct implementation<op::embedding<P>, backend::cuda> {
  using op_type = op::embedding<P>;
  using backward_args = typename op_type::backward_args;

  /// Ids and tokens, as they come and sorted by id; tokens of the same id stay in order.
  struct workspace {
    std::uint32_t *keys, *tokens, *sorted_keys, *sorted_tokens;
    std::byte* sorting;
    std::size_t sorting_bytes;
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
    const index_t tokens = args.ids.extent(0);
    const workspace w = scratch(ctx, ctx.scratch, args);
    if (tokens == 0) return;
    const cuda::misuse no_such_id = cuda::misuse_of(
        ctx, "embedding.backward: ids[{}] is {}, expected -1 or an id below the vocabulary of {}");
    cuda::launch(args.name, ctx.stream, {.grid = static_cast<unsigned>(ceil_div(tokens, 256))},
                 cuda::detail::embedding_keys_kernel<std::int32_t>, args.ids,
                 static_cast<std::uint32_t>(args.dtable.extent(0)), w.keys, w.tokens, no_such_id);
    std::size_t bytes = w.sorting_bytes;
    cuda::require(sort(w, bytes, args, ctx.stream), args.name);
    constexpr int width = cuda::widest<activation<P>>;
    if (args.dy.extent(1) % width == 0 && cuda::takes_packs<width>(args.dy) &&
        cuda::takes_packs<width>(args.dtable))
      add_rows<width>(ctx, args, w);
    else
      add_rows<1>(ctx, args, w);
  }

  template <class Ctx>
  static workspace scratch(const Ctx&, scratch_arena& arena, const backward_args& args) {
    const index_t tokens = args.ids.extent(0);
    workspace w = {};
    for (std::uint32_t** list : {&w.keys, &w.tokens, &w.sorted_keys, &w.sorted_tokens})
      *list = arena.take<std::uint32_t>(tokens);
    if (tokens > 0) cuda::require(sort(w, w.sorting_bytes, args, nullptr), args.name);
    w.sorting = arena.take<std::byte>(static_cast<index_t>(w.sorting_bytes));
    return w;
  }

 private:
  /// Without `sorting` it only says how many bytes that must have.
  static cudaError_t sort(const workspace& w, std::size_t& bytes, const backward_args& args,
                          cudaStream_t stream) {
    const int bits = std::bit_width(static_cast<std::uint32_t>(args.dtable.extent(0)) | 1u);
    return cub::DeviceRadixSort::SortPairs(w.sorting, bytes, w.keys, w.sorted_keys, w.tokens, w.sorted_tokens,
                                           static_cast<int>(args.ids.extent(0)), 0, bits, stream);
  }

  template <int Width, class Ctx>
  static void add_rows(Ctx& ctx, const backward_args& args, const workspace& w) {
    const index_t tokens = args.ids.extent(0), strips = ceil_div(args.dy.extent(1), 32 * Width);
    cuda::launch(
        args.name, ctx.stream,
        {.grid = {static_cast<unsigned>(ceil_div(tokens, 32)), static_cast<unsigned>(ceil_div(strips, 4))},
         .block = {32, 4}},
        cuda::detail::embedding_backward_kernel<P, Width>, w.sorted_keys, w.sorted_tokens, tokens, args.dy,
        args.dtable);
  }
};

}  // namespace dsv3::inline DSV3_ABI
