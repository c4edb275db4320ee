// SPDX-License-Identifier: MIT
// Tile quantisation on the GPU: numbers are read once, and once more where the whole tensor shares a scale.
#pragma once

#include <dsv3/cuda/quant/block_tiles.cuh>
#include <dsv3/op/quant/tile_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

template <class From, class Element, class Tile>
struct implementation<op::tile_quantizer<From, Element, Tile>, backend::cuda> {
  using op_type = op::tile_quantizer<From, Element, Tile>;
  using forward_args = typename op_type::forward_args;
  using dequantize_args = typename op_type::dequantize_args;
  static_assert(std::is_same_v<Tile, row_tile> || std::is_same_v<Tile, column_tile> ||
                    std::is_same_v<Tile, block_tile>,
                "the GPU's tile quantiser takes tiles of 1x128, 128x1 and 128x128");

  template <class Ctx>
  static std::uint32_t* scratch(const Ctx&, scratch_arena& arena, const forward_args& args) {
    return cuda::room_for_largest(arena, args.group);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const index_t rows = args.x.extent(0), columns = args.x.extent(1);
    const cuda::code_rows<Element> y(args.y.values, args.y.scales);
    if constexpr (std::is_same_v<Tile, row_tile>)
      if (args.group == scale_group::tile)
        return cuda::narrow_rows(args.name, ctx.stream, cuda::detail::plain_rows<From>(args.x), y,
                                 args.groups, rows, columns, args.scales);
    const cuda::block_scales how{args.scales, args.group, scratch(ctx, ctx.scratch, args)};
    cuda::narrow_blocks<Element, Tile>(args.name, ctx.stream, cuda::float_rows<From>(args.x), y,
                                       cuda::no_transposed_codes{}, how, args.groups, rows, columns);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const dequantize_args& args) {
    cuda::convert_rows(args.name, ctx.stream, cuda::stored_tiles<Element, Tile>(args.x),
                       cuda::number_rows<From>(args.y), args.groups, args.y.extent(0), args.y.extent(1));
  }
};

}  // namespace dsv3::inline DSV3_ABI
