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

/// Rows of codes, each of which is written to several places.
template <class Element>
struct dispatched_rows {
  using element = Element;
  static constexpr int tiles_across = 16;  // long pieces of rows that lie anywhere
  code_rows<Element> rows;
  view<const std::int32_t, 2> row_of;  // [tokens, top_k]

  __device__ __forceinline__ void put(index_t token, index_t column, index_t live,
                                      const float (&x)[lane_numbers]) const {
    const pack<std::uint32_t, 2> codes = codes_of<Element>(x);
    const int top_k = static_cast<int>(row_of.extent(1));
#pragma unroll 1
    for (int k = 0; k < top_k; ++k)
      if (const std::int32_t row = row_of(token, k); row >= 0) rows.put(row, column, live, codes);
  }
  __device__ __forceinline__ void put_scale(index_t token, index_t tile, float scale) const {
    const int top_k = static_cast<int>(row_of.extent(1));
#pragma unroll 1
    for (int k = 0; k < top_k; ++k)
      if (const std::int32_t row = row_of(token, k); row >= 0) rows.put_scale(row, tile, scale);
  }
};

/// A thread per tile of a token. Lanes have neighbouring tiles.
template <class Scale>
__global__ void __launch_bounds__(256)
    place_scales_kernel(view<const Scale, 2, strided> from, view<const std::int32_t, 2> row_of,
                        view<Scale, 2, strided> to) {
  const index_t at = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x, tiles = from.extent(1);
  if (at >= from.size()) return;
  const index_t t = at / tiles, tile = at % tiles;
  const Scale scale = from(t, tile);
  for (index_t k = 0; k < row_of.extent(1); ++k)
    if (const std::int32_t row = row_of(t, k); row >= 0) to(row, tile) = scale;
}

}  // namespace cuda::detail

template <class P, class Element>
struct implementation<op::dispatch_quantizer<P, Element>, backend::cuda> {
  using forward_args = typename op::dispatch_quantizer<P, Element>::forward_args;
  using place_args = typename op::dispatch_quantizer<P, Element>::place_args;
  using numbers = activation<P>;

  template <class Ctx>
  static std::uint32_t* scratch(const Ctx&, scratch_arena& arena, const forward_args& args) {
    return cuda::room_for_largest(arena, args.group);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const index_t tokens = args.x.extent(0), width = args.x.extent(1);
    const cuda::detail::dispatched_rows<Element> rows{{args.rows.values, args.rows.scales}, args.plan.row_of};
    if (args.group == scale_group::tile)
      return cuda::narrow_rows(args.name, ctx.stream, cuda::detail::plain_rows<numbers>(args.x), rows, {},
                               tokens, width, args.scales);
    const cuda::block_scales how{args.scales, args.group, scratch(ctx, ctx.scratch, args)};
    cuda::narrow_blocks<Element, row_tile>(args.name, ctx.stream, cuda::float_rows<numbers>(args.x), rows,
                                           cuda::no_transposed_codes{}, how, {}, tokens, width);
  }

  // Codes move as the bytes they are.
  template <class Ctx>
  static void run(Ctx& ctx, const place_args& args) {
    cuda::dispatch_rows<std::uint8_t>(args.name, ctx.stream, as_bytes(args.x.values), args.plan.row_of,
                                      as_bytes(args.rows.values));
    cuda::launch(args.name, ctx.stream,
                 {.grid = static_cast<unsigned>(ceil_div(args.x.scales.size(), 256)), .block = 256},
                 cuda::detail::place_scales_kernel<float>, args.x.scales, args.plan.row_of, args.rows.scales);
  }

 private:
  template <class Code>
  static auto as_bytes(const view<Code, 2>& codes) {
    using byte = std::conditional_t<std::is_const_v<Code>, const std::uint8_t, std::uint8_t>;
    return view<byte, 2>{
        reinterpret_cast<byte*>(codes.data()), {codes.extent(0), codes.extent(1)}, {codes.stride(0), 1}};
  }
};

}  // namespace dsv3::inline DSV3_ABI
