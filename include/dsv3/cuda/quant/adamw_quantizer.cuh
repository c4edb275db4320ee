// SPDX-License-Identifier: MIT
// AdamW into tiles on the GPU: a block of 128 x 128 weights lies in registers from its update to its codes.
#pragma once

#include <dsv3/cuda/optim/adamw.cuh>
#include <dsv3/cuda/quant/tile_quantizer.cuh>
#include <dsv3/op/quant/adamw_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// A lane moves four neighbours in either half of eight rows of a tile, so that what a row's lanes read and
/// write has no gaps.
template <class P, class Element>
__global__ void __launch_bounds__(256, 2)
    adamw_tiles_kernel(adamw_tensor<P, master<P>> t, const view<Element, 3> codes,
                       const view<float, 3, strided> scales, const double* clip, const double* pace,
                       adamw_coefficients<master<P>> c, scale_kind kind) {
  constexpr int width = 4, halves = 2;
  __shared__ float room[32];
  const double factor = *clip;
  c.take(pace);
  if (!isfinite(factor)) return;
  const master<P> clipped(factor);
  const index_t rows = codes.extent(1), columns = codes.extent(2), matrix = blockIdx.z;
  const index_t first_row = 128 * static_cast<index_t>(blockIdx.y) + threadIdx.x / tile_lanes * strip_rows,
                first_column = 128 * static_cast<index_t>(blockIdx.x) + threadIdx.x % tile_lanes * width;
  const auto inside = [&](int i, int half) {
    return first_row + i < rows && first_column + 64 * half < columns;
  };
  pack<float, width> moved[strip_rows][halves];
  float largest = 0;
#pragma unroll
  for (int i = 0; i < strip_rows; ++i) {
    const index_t at = (matrix * rows + first_row + i) * columns + first_column;
    adamw_pack<width, P, master<P>> now[halves];
#pragma unroll
    for (int half = 0; half < halves; ++half)
      if (inside(i, half)) now[half].load(t, at + 64 * half);
#pragma unroll
    for (int half = 0; half < halves; ++half) {
      moved[i][half] = {};
      if (!inside(i, half)) continue;
      now[half].move(c, clipped);
      now[half].keep(t, at + 64 * half);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        moved[i][half][j] = static_cast<float>(now[half].p[j]);
        largest = larger_magnitude(largest, moved[i][half][j]);
      }
    }
  }
  const float scale = scale_of_tile<Element>(reduce_block(largest, room, larger{}), kind);
  if (threadIdx.x == 0) scales(matrix, blockIdx.y, blockIdx.x) = scale;
  const divider by = divider::of(scale);
#pragma unroll
  for (int i = 0; i < strip_rows; ++i)
#pragma unroll
    for (int half = 0; half < halves; ++half) {
      if (!inside(i, half)) continue;
      float quotients[width];
#pragma unroll
      for (int j = 0; j < width; ++j) quotients[j] = by(moved[i][half][j]);
      store_pack(reinterpret_cast<std::uint32_t*>(&codes(matrix, first_row + i, first_column + 64 * half)),
                 codes_of<Element>(quotients));
    }
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P, class Element>
struct implementation<op::adamw_quantizer<P, Element>, backend::cuda> {
  using step_args = typename op::adamw_quantizer<P, Element>::step_args;
  using adamw = implementation<op::adamw<P, master<P>>, backend::cuda>;
  using quantizer = op::tile_quantizer<master<P>, Element, block_tile>;

  template <class Ctx>
  static void run(Ctx& ctx, const step_args& args) {
    const index_t matrices = args.w.extent(0), rows = args.w.extent(1), columns = args.w.extent(2);
    if (takes_packs(args)) {
      const cuda::detail::adamw_tensor<P, master<P>> t{args.g.data(), args.p.data(), args.p.data(),
                                                       args.m.data(), args.v.data()};
      const cuda::launch_shape shape{.grid = {static_cast<unsigned>(ceil_div(columns, 128)),
                                              static_cast<unsigned>(ceil_div(rows, 128)),
                                              static_cast<unsigned>(matrices)}};
      return cuda::launch(args.name, ctx.stream, shape, cuda::detail::adamw_tiles_kernel<P, Element>, t,
                          args.w.values, args.w.scales, args.scale.data(), args.pace.data(),
                          cuda::detail::adamw_coefficients<master<P>>(args.config), args.scales);
    }
    // Rows that begin anywhere. Where nothing moves, the codes become what they were.
    adamw::run(ctx, args.plain());
    for (index_t i = 0; i < matrices; ++i)
      implementation<quantizer, backend::cuda>::run(
          ctx, typename quantizer::forward_args{
                   .x = view<const master<P>, 2>{args.p.data() + i * rows * columns, rows, columns},
                   .y = args.w[i],
                   .scales = args.scales});
  }

 private:
  static bool takes_packs(const step_args& args) {
    const auto four = [](const auto* data) { return cuda::takes_packs<4>(data, 0); };
    return args.w.extent(2) % 4 == 0 && cuda::takes_packs<4>(args.w.values.data(), args.w.values.stride(1)) &&
           args.w.values.stride(0) % 4 == 0 && four(args.g.data()) && four(args.p.data()) &&
           four(args.m.data()) && four(args.v.data());
  }
};

}  // namespace dsv3::inline DSV3_ABI
