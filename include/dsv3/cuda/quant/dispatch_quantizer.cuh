// SPDX-License-Identifier: MIT
// Tokens to the experts' rows in 8 bits on the GPU: a token is read and quantised once, and its codes written
// to all of its rows.
#pragma once

#include <dsv3/cuda/quant/block_tiles.cuh>
#include <dsv3/op/quant/dispatch_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

/// Rows of codes, each of which is written to several places.
template <class Element>
struct dispatched_rows {
  using element = Element;
  static constexpr int tiles_across = 8;  // long pieces of rows that lie anywhere
  code_rows<Element> rows;
  view<const std::int32_t, 2> row_of;  // [tokens, top_k]

  __device__ __forceinline__ void put(index_t token, index_t column, index_t live,
                                      const float (&x)[lane_numbers]) const {
    const pack<std::uint32_t, 2> codes = codes_of<Element>(x);
    const int top_k = static_cast<int>(row_of.extent(1));
#pragma unroll 1
    for (int k = 0; k < top_k; ++k) rows.put(row_of(token, k), column, live, codes);
  }
  __device__ __forceinline__ void put_scale(index_t token, index_t tile, float scale) const {
    const int top_k = static_cast<int>(row_of.extent(1));
#pragma unroll 1
    for (int k = 0; k < top_k; ++k) rows.put_scale(row_of(token, k), tile, scale);
  }
};

}  // namespace cuda::detail

template <class P, class Element>
struct implementation<op::dispatch_quantizer<P, Element>, backend::cuda> {
  using forward_args = typename op::dispatch_quantizer<P, Element>::forward_args;
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
};

}  // namespace dsv3::inline DSV3_ABI
