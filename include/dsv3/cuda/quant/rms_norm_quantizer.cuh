// SPDX-License-Identifier: MIT
// RMSNorm into tiles on the GPU: a row lies in registers from its measurement to its codes.
#pragma once

#include <dsv3/cuda/norm/rms_norm.cuh>
#include <dsv3/cuda/quant/tile_quantizer.cuh>
#include <dsv3/op/quant/rms_norm_quantizer.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// As rms_norm_forward_kernel. A tile belongs to neighbouring lanes, as a row's threads are whole warps.
template <class P, class Element, int Width>
__global__ void __launch_bounds__(1024)
    rms_norm_quantizer_kernel(const typename op::rms_norm<P>::forward_args args, const code_rows<Element> y,
                              scale_kind kind) {
  constexpr int lanes = 128 / Width;
  static_assert(lanes <= 32);
  __shared__ accumulator<P> rooms[most_rows_down][32];
  const index_t t = static_cast<index_t>(blockIdx.x) * blockDim.y + threadIdx.y, hidden = args.x.extent(1);
  const bool live = t < args.x.extent(0);
  row_in_registers<P, Width> row;
  row.load(args, t, live);
  const accumulator<P> r = row.measure(args, t, live, rooms[threadIdx.y]);
  if (!live) return;

  // A lane makes one scale of the four that it has a part of.
  pack<activation<P>, Width> values[row_packs];
  float magnitudes[row_packs];
#pragma unroll
  for (int p = 0; p < row_packs; ++p) {
    magnitudes[p] = 0;
    if (const int at = row.column(p); at < hidden) {
      values[p] = row.normalized(args, p, r);
      if (!args.y.empty()) store_pack(&args.y(t, at), values[p]);
#pragma unroll
      for (int i = 0; i < Width; ++i)
        magnitudes[p] = larger_magnitude(magnitudes[p], static_cast<float>(values[p][i]));
    }
  }
  const float scale = scale_of_tile<Element>(largest_over_lanes<row_packs, lanes>(magnitudes), kind);
  const int first = threadIdx.x % lanes;
  if (first < row_packs)
    if (const int at = row.column(first) - first * Width; at < hidden) y.put_scale(t, at / 128, scale);
  const divider by = divider::of(scale);
#pragma unroll
  for (int p = 0; p < row_packs; ++p) {
    const divider by_tile = by.of_lane<lanes>(p);
    const int at = row.column(p);
    if (at >= hidden) continue;
    float x[Width];
#pragma unroll
    for (int i = 0; i < Width; ++i) x[i] = by_tile(static_cast<float>(values[p][i]));
    store_bytes(&y.values(t, at), codes_of<Element>(x), Width, y.packs);
  }
}

/// As rms_norm_forward_any_kernel.
template <class P, class Element>
__global__ void __launch_bounds__(256)
    rms_norm_quantizer_any_kernel(const typename op::rms_norm<P>::forward_args args,
                                  const code_rows<Element> y, scale_kind kind) {
  using acc = accumulator<P>;
  __shared__ acc room[32];
  const index_t t = blockIdx.x, hidden = args.x.extent(1);
  const activation<P>* s;
  const acc r = measure_row<P>(args, t, room, s);
  for (index_t first = 0; first < hidden; first += 256 * lane_numbers) {
    const index_t column = first + threadIdx.x * lane_numbers, live = hidden - column;
    float x[lane_numbers];
#pragma unroll
    for (int i = 0; i < lane_numbers; ++i) {
      const bool there = i < live;
      const auto value = activation<P>(there ? acc(s[column + i]) * r * acc(args.gain(column + i)) : acc(0));
      if (there && !args.y.empty()) args.y(t, column + i) = value;
      x[i] = static_cast<float>(value);
    }
    const float scale = scale_of_tile<Element>(max_lanes<tile_lanes>(largest_magnitude(x)), kind);
    const divider by = divider::of(scale);
#pragma unroll
    for (int i = 0; i < lane_numbers; ++i) x[i] = by(x[i]);
    y.put(t, column, live, x);
    if (live > 0 && column % 128 == 0) y.put_scale(t, column / 128, scale);
  }
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P, class Element>
struct implementation<op::rms_norm_quantizer<P, Element>, backend::cuda> {
  using rms_norm = implementation<op::rms_norm<P>, backend::cuda>;
  using tile_quantizer = op::tile_quantizer<activation<P>, Element, row_tile>;
  using forward_args = typename op::rms_norm_quantizer<P, Element>::forward_args;
  // A tile of doubles is more than a warp holds: they are normalised, and then quantised.
  static constexpr bool fused = sizeof(activation<P>) <= sizeof(float);

  /// The normalised rows, where they are stored and nobody else wants them.
  template <class Ctx>
  static view<activation<P>, 2> scratch(const Ctx&, scratch_arena& arena, const forward_args& args) {
    if (fused || !args.plain.y.empty()) return args.plain.y;
    return arena.template tensor<activation<P>>(args.y.extent(0), args.y.extent(1));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    if constexpr (fused) {
      quantize(ctx, args);
    } else {
      auto plain = args.plain;
      plain.y = scratch(ctx, ctx.scratch, args);
      rms_norm::run(ctx, plain);
      implementation<tile_quantizer, backend::cuda>::run(
          ctx, typename tile_quantizer::forward_args{.x = plain.y, .y = args.y, .scales = args.scales});
    }
  }

 private:
  template <class Ctx>
  static void quantize(Ctx& ctx, const forward_args& args) {
    constexpr int width = rms_norm::width;
    const index_t tokens = args.y.extent(0), hidden = args.y.extent(1);
    cuda::code_rows<Element> y(args.y.values, args.y.scales);
    if (rms_norm::takes_packs(args.plain)) {
      const cuda::detail::row_block shape = cuda::detail::row_block_for(ceil_div(hidden, width));
      y.packs = cuda::takes_packs<width>(args.y.values);
      cuda::launch(
          args.name, ctx.stream,
          {.grid = static_cast<unsigned>(ceil_div(tokens, shape.down)), .block = {shape.across, shape.down}},
          cuda::detail::rms_norm_quantizer_kernel<P, Element, width>, args.plain, y, args.scales);
    } else {
      cuda::launch(args.name, ctx.stream, {.grid = static_cast<unsigned>(tokens)},
                   cuda::detail::rms_norm_quantizer_any_kernel<P, Element>, args.plain, y, args.scales);
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI
