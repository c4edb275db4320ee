// SPDX-License-Identifier: MIT
// Tokens to the experts' rows in 8 bits on the GPU: a token is read and quantised once, and its codes written
// to all of its rows.
#pragma once

#include <dsv3/cuda/expert/permute.cuh>
#include <dsv3/cuda/quant/block_tiles.cuh>
#include <dsv3/op/quant/dispatch_quantizer.hpp>

#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// Rows of codes, each of which is written to several places, and their scales, which are not: those of
/// neighbouring rows come from tokens far apart, and would be written four bytes at a time.
template <class Element>
struct dispatched_rows {
  using element = Element;
  static constexpr int tiles_across = 8;  // long pieces of rows that lie anywhere
  code_rows<Element> rows;
  view<const std::int32_t, 2> row_of;  // [tokens, top_k]
  view<float, 2> scales;               // [tokens, tiles]

  __device__ __forceinline__ void put(index_t token, index_t column, index_t live,
                                      const float (&x)[lane_numbers]) const {
    const pack<std::uint32_t, 2> codes = codes_of<Element>(x);
    const int top_k = static_cast<int>(row_of.extent(1));
#pragma unroll 1
    for (int k = 0; k < top_k; ++k)
      if (const std::int32_t row = row_of(token, k); row >= 0) rows.put(row, column, live, codes);
  }
  __device__ __forceinline__ void put_scale(index_t token, index_t tile, float scale) const {
    scales(token, tile) = scale;
  }
};

/// The tokens' scales to their rows: a block has 32 rows, whose scales it turns, 64 tiles at a time, so that
/// neighbours are read and written together whichever of the two lie side by side.
template <class Scales>
__global__ void __launch_bounds__(256)
    gather_scales_kernel(const Scales from, view<const std::int32_t, 1> token_of,
                         view<float, 2, strided> to) {
  constexpr int rows = 32, across = 64, warps = 8;
  __shared__ float held[rows][across + 1];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const index_t first = static_cast<index_t>(blockIdx.x) * rows, tiles = to.extent(1), all = to.extent(0);
  const bool live = first + lane < all && token_of(first + lane) >= 0;
  for (index_t begin = 0; begin < tiles; begin += across) {
    const int count = static_cast<int>(min(tiles - begin, index_t{across}));
    for (int r = warp; r < rows; r += warps) {
      const std::int32_t token = first + r < all ? token_of(first + r) : -1;
      for (int tile = lane; token >= 0 && tile < count; tile += 32) held[r][tile] = from(token, begin + tile);
    }
    __syncthreads();
    for (int tile = warp; tile < count; tile += warps)
      if (live) to(first + lane, begin + tile) = held[lane][tile];
    __syncthreads();
  }
}
/// The same where nobody knows the rows' tokens: a thread per tile of a token.
template <class Scales>
__global__ void __launch_bounds__(256)
    place_scales_kernel(const Scales from, view<const std::int32_t, 2> row_of, view<float, 2, strided> to) {
  const index_t at = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x, tiles = from.extent(1);
  if (at >= from.size()) return;
  const index_t t = at / tiles, tile = at % tiles;
  const float scale = from(t, tile);
  for (index_t k = 0; k < row_of.extent(1); ++k)
    if (const std::int32_t row = row_of(t, k); row >= 0) to(row, tile) = scale;
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P, class Element>
struct implementation<op::dispatch_quantizer<P, Element>, backend::cuda> {
  using forward_args = typename op::dispatch_quantizer<P, Element>::forward_args;
  using place_args = typename op::dispatch_quantizer<P, Element>::place_args;
  using numbers = activation<P>;

  struct workspace {
    std::uint32_t* largest;
    view<float, 2> scales;  // [tokens, tiles]
  };
  template <class Ctx>
  static workspace scratch(const Ctx&, scratch_arena& arena, const forward_args& args) {
    return {cuda::room_for_largest(arena, args.group),
            arena.tensor<float>(args.x.extent(0), args.rows.scales.extent(1))};
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const index_t tokens = args.x.extent(0), width = args.x.extent(1);
    const workspace work = scratch(ctx, ctx.scratch, args);
    const cuda::detail::dispatched_rows<Element> rows{
        {args.rows.values, args.rows.scales}, args.plan.row_of, work.scales};
    if (args.group == scale_group::tile)
      cuda::narrow_rows(args.name, ctx.stream, cuda::detail::plain_rows<numbers>(args.x), rows, {}, tokens,
                        width, args.scales);
    else
      cuda::narrow_blocks<Element, row_tile>(args.name, ctx.stream, cuda::float_rows<numbers>(args.x), rows,
                                             cuda::no_transposed_codes{},
                                             {args.scales, args.group, work.largest}, {}, tokens, width);
    put_scales(ctx, args, view<const float, 2>(work.scales));
  }

  // Codes move as the bytes they are.
  template <class Ctx>
  static void run(Ctx& ctx, const place_args& args) {
    cuda::dispatch_rows<std::uint8_t>(args.name, ctx.stream, as_bytes(args.x.values), args.plan.row_of,
                                      as_bytes(args.rows.values));
    put_scales(ctx, args, args.x.scales);
  }

 private:
  template <class Ctx, class Args, class Scales>
  static void put_scales(Ctx& ctx, const Args& args, const Scales& from) {
    if (args.plan.token_of.empty())
      cuda::launch(args.name, ctx.stream, {.grid = static_cast<unsigned>(ceil_div(from.size(), 256))},
                   cuda::detail::place_scales_kernel<Scales>, from, args.plan.row_of, args.rows.scales);
    else
      cuda::launch(args.name, ctx.stream,
                   {.grid = static_cast<unsigned>(ceil_div(args.rows.scales.extent(0), 32))},
                   cuda::detail::gather_scales_kernel<Scales>, from, args.plan.token_of, args.rows.scales);
  }

  template <class Code>
  static auto as_bytes(const view<Code, 2>& codes) {
    using byte = std::conditional_t<std::is_const_v<Code>, const std::uint8_t, std::uint8_t>;
    return view<byte, 2>{
        reinterpret_cast<byte*>(codes.data()), {codes.extent(0), codes.extent(1)}, {codes.stride(0), 1}};
  }
};

}  // namespace dsv3::inline DSV3_ABI
