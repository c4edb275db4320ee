// SPDX-License-Identifier: MIT
// Transposed quantisation on the GPU: a block of 128 tokens by 128 channels is read once, whatever comes of
// it.
#pragma once

#include <dsv3/cuda/quant/block_tiles.cuh>
#include <dsv3/op/quant/transposing_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

template <class From, class Element>
struct implementation<op::transposing_quantizer<From, Element>, backend::cuda> {
  using op_type = op::transposing_quantizer<From, Element>;

  template <class Ctx, class Args>
  static std::uint32_t* scratch(const Ctx&, scratch_arena& arena, const Args& args) {
    return cuda::room_for_largest(arena, args.group);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    narrow<void>(ctx, args, args.x, cuda::float_rows<From>(args.x), cuda::no_rows{});
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::both_args& args) {
    narrow<row_tile>(ctx, args, args.x, cuda::float_rows<From>(args.x),
                     cuda::code_rows<Element>(args.y.values, args.y.scales));
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::retile_args& args) {
    narrow<void>(ctx, args, args.y.values, cuda::stored_tiles<Element, row_tile>(args.y), cuda::no_rows{});
  }

 private:
  template <class Tile, class Ctx, class Args, class Wide, class Source, class Rows>
  static void narrow(Ctx& ctx, const Args& args, const Wide& x, const Source& source, const Rows& y) {
    const cuda::block_scales how{args.scales, args.group, scratch(ctx, ctx.scratch, args)};
    cuda::narrow_blocks<Element, Tile>(args.name, ctx.stream, source, y,
                                       cuda::transposed_codes<Element>(args.t.values, args.t.scales), how,
                                       args.groups, x.extent(0), x.extent(1));
  }
};

}  // namespace dsv3::inline DSV3_ABI
