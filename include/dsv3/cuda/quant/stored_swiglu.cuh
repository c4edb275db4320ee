// SPDX-License-Identifier: MIT
// SwiGLU between products of 8-bit operands on the GPU: codes are read, codes are written, and all numbers
// between them stay in registers.
#pragma once

#include <dsv3/cuda/quant/block_tiles.cuh>
#include <dsv3/cuda/quant/swiglu_quantizer.cuh>
#include <dsv3/op/quant/stored_swiglu.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- sources ----------------------------------------------------------------------------------------------

/// The gates and the ups of stored rows.
template <class P>
struct stored_halves {
  using acc = accumulator<P>;
  using tiles = stored_tiles<fp8_e4m3, row_tile>;
  using codes = typename tiles::numbers;
  tiles gates, ups;
  view<const acc, 1> row_gates;

  stored_halves(const scaled_view<const fp8_e4m3, row_tile>& kept, const view<const acc, 1>& of_rows)
      : gates(half(kept, 0)), ups(half(kept, 1)), row_gates(of_rows) {}

  template <int Count>
  __device__ __forceinline__ void load(index_t row, index_t end, index_t column, index_t live,
                                       codes (&gate)[Count], codes (&up)[Count]) const {
    gates.load(row, end, column, live, gate);
    ups.load(row, end, column, live, up);
  }
  /// What was stored, rounded as it is where it is loaded.
  __device__ __forceinline__ static eight<activation<P>> numbers(const codes& from) {
    float x[lane_numbers];
    from.all(x);
    return rounded<activation<P>>(x);
  }
  __device__ __forceinline__ acc gate_of_row(index_t row, index_t end) const {
    return row < end && !row_gates.empty() ? row_gates(row) : acc(1);
  }

 private:
  static scaled_view<const fp8_e4m3, row_tile> half(const scaled_view<const fp8_e4m3, row_tile>& kept,
                                                    int which) {
    const index_t rows = kept.extent(0), inner = kept.extent(1) / 2, tiles = inner / 128;
    const auto& values = kept.values;
    const auto& scales = kept.scales;
    const index_t extents[] = {rows, inner}, strides[] = {values.stride(0), 1};
    const index_t scale_extents[] = {rows, tiles}, scale_strides[] = {scales.stride(0), scales.stride(1)};
    return {{values.data() + which * inner, extents, strides},
            {scales.data() + which * tiles * scales.stride(1), scale_extents, scale_strides}};
  }
};

/// SwiGLU's output in tiles of one row, as codes and their scales.
template <class P>
struct gated_tiles {
  using acc = accumulator<P>;
  using numbers = scaled_codes<fp8_e4m3>;
  static constexpr int blocks_at_once = sizeof(activation<P>) > 2 ? 1 : 2;
  stored_halves<P> halves;
  scale_kind kind;

  template <int Count>
  __device__ __forceinline__ void load(index_t row, index_t end, index_t column, index_t live,
                                       numbers (&to)[Count]) const {
    typename stored_halves<P>::codes gate[Count], up[Count];
    halves.load(row, end, column, live, gate, up);
    eight<activation<P>> y[Count];
    float magnitudes[Count];
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      const acc w = halves.gate_of_row(row + i, end);
      const auto gates = halves.numbers(gate[i]), ups = halves.numbers(up[i]);
      acc exact[lane_numbers];
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j) {
        const acc g = acc(gates[j]);
        exact[j] = w * g * sigmoid(g) * acc(ups[j]);
      }
      y[i] = rounded<activation<P>>(exact);
      magnitudes[i] = 0;
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j)
        magnitudes[i] = larger_magnitude(magnitudes[i], static_cast<float>(y[i][j]));
      y[i].stay_packed();
    }
    const float scale = scale_of_tile<fp8_e4m3>(largest_over_lanes<Count>(magnitudes), kind);
    const divider by = divider::of(scale);
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      const divider of_row = by.of_lane(i);
      float quotients[lane_numbers];
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j) quotients[j] = of_row(static_cast<float>(y[i][j]));
      to[i] = {codes_of<fp8_e4m3>(quotients), __shfl_sync(all_lanes, scale, i, tile_lanes)};
    }
  }
};

/// The gradients of SwiGLU's inputs, rounded as they are where they are stored, and what a tile contributes
/// to the gradients of the rows' gates, in `partial` [tiles, rows].
template <class P>
struct swiglu_slopes {
  using acc = accumulator<P>;
  using numbers = eight<activation<P>>;
  stored_halves<P> halves;
  wide_rows<activation<P>> dy;
  view<acc, 2> partial;

  template <int Count>
  __device__ __forceinline__ void load(index_t row, index_t end, index_t column, index_t live,
                                       numbers* d_gates, numbers* d_ups, int step) const {
    typename stored_halves<P>::codes gate[Count], up[Count];
    numbers slope[Count];
    halves.load(row, end, column, live, gate, up);
    dy.load(row, end, column, live, slope);
    const int lane = threadIdx.x % tile_lanes;
    acc own = 0;
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      const acc w = halves.gate_of_row(row + i, end);
      const auto gates = halves.numbers(gate[i]), ups = halves.numbers(up[i]);
      acc dg[lane_numbers], du[lane_numbers], sum = 0;
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j) {
        const acc g = acc(gates[j]), u = acc(ups[j]), d = acc(slope[i][j]);
        const acc sigma = sigmoid(g), silu = g * sigma;
        sum += d * silu * u;
        dg[j] = w * d * u * (sigma + silu * (1 - sigma));
        du[j] = w * d * silu;
      }
      d_gates[i * step] = rounded<activation<P>>(dg);
      d_ups[i * step] = rounded<activation<P>>(du);
      if (partial.empty()) continue;
      sum = sum_lanes<tile_lanes>(sum);
      if (lane == i) own = sum;
    }
    if (!partial.empty() && lane < Count && row + lane < end) partial(column / 128, row + lane) = own;
  }
};

// ---- kernels ----------------------------------------------------------------------------------------------

/// A lane has eight gates and ups of a few rows: tiles of both, and one of what they make.
template <class P>
__global__ void __launch_bounds__(256)
    stored_swiglu_kernel(const activated_rows<P> source, const code_rows<fp8_e4m3> kept,
                         const code_rows<fp8_e4m3> y, const row_groups groups, index_t rows, index_t inner,
                         scale_kind kind) {
  using block = block_of_lanes<1>;
  const index_t tile = block::tile(), column = block::column();
  block::each_part(groups, rows, [&](index_t row, index_t end) {
    typename activated_rows<P>::numbers loaded[rows_of_lane];
    source.load(row, end, column, inner - column, loaded);
    float x[rows_of_lane][lane_numbers];
#pragma unroll
    for (int i = 0; i < rows_of_lane; ++i) source.floats(loaded[i], x[i]);
    put_tile(y, row, end, tile, column, inner, x, kind);
#pragma unroll
    for (int i = 0; i < rows_of_lane; ++i)
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j) x[i][j] = static_cast<float>(loaded[i].gate[j]);
    put_tile(kept, row, end, tile, column, 2 * inner, x, kind);
#pragma unroll
    for (int i = 0; i < rows_of_lane; ++i)
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j) x[i][j] = static_cast<float>(loaded[i].up[j]);
    put_tile(kept, row, end, inner / 128 + tile, inner + column, 2 * inner, x, kind);
  });
}

/// A block has a tile of gates and that of their ups. Their gradients wait in shared memory, each thread's
/// part for itself, until one after the other becomes codes.
template <class P, class Gradient>
__global__ void __launch_bounds__(256, sizeof(activation<P>) > 2 ? 1 : 2)
    swiglu_slopes_kernel(const swiglu_slopes<P> source, const code_rows<Gradient> y,
                         const transposed_codes<Gradient> t, const block_scales how, const row_groups groups,
                         index_t rows, index_t inner) {
  using numbers = typename swiglu_slopes<P>::numbers;
  auto* waiting = reinterpret_cast<numbers*>(dynamic_shared()) + threadIdx.x;  // [gate, up][rows of a strip]
  const index_t tile = blockIdx.x, column = 128 * tile + lane_numbers * (threadIdx.x % tile_lanes);
  each_band(groups, rows, [&](const row_band& band) {
    constexpr int together = 4;  // rows whose operands have registers at one time
#pragma unroll 1
    for (int i = 0; i < strip_rows; i += together)
      source.template load<together>(band.begin + strip_rows * (threadIdx.x / tile_lanes) + i, band.end,
                                     column, inner - column, waiting + i * 256,
                                     waiting + (strip_rows + i) * 256, 256);
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      numbers x[strip_rows];
#pragma unroll
      for (int i = 0; i < strip_rows; ++i) x[i] = waiting[(half * strip_rows + i) * 256];
      narrow_block<Gradient, row_tile>(x, band, half * (inner / 128) + tile, 2 * inner, y, t, how);
    }
  });
}

/// sums(row) = the sum over tiles of partial(tile, row), of live rows.
template <class Number>
__global__ void __launch_bounds__(128)
    sum_of_tiles_kernel(view<const Number, 2> partial, view<Number, 1> sums, const row_groups groups) {
  each_band(groups, sums.extent(0), [&](const row_band& band) {
    const index_t row = band.begin + threadIdx.x;
    if (row >= band.end) return;
    Number sum = 0;
    for (index_t tile = 0; tile < partial.extent(0); ++tile) sum += partial(tile, row);
    sums(row) = sum;
  });
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P, class Gradient>
struct implementation<op::stored_swiglu<P, Gradient>, backend::cuda> {
  using op_type = op::stored_swiglu<P, Gradient>;
  using partial_sums = view<accumulator<P>, 2>;

  /// What each tile contributes to the gradients of the rows' gates.
  template <class Ctx>
  static partial_sums scratch(const Ctx&, scratch_arena& arena, const typename op_type::backward_args& args) {
    if (args.d_row_gates.empty()) return {};
    return arena.tensor<accumulator<P>>(args.dy.extent(1) / 128, args.dy.extent(0));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    using rows = cuda::wide_rows<activation<P>>;
    const index_t count = args.gate_up.extent(0), inner = args.y.extent(1);
    const cuda::detail::activated_rows<P> source{
        rows(args.gate_up.columns(0, inner)), rows(args.gate_up.columns(inner, 2 * inner)), args.row_gates};
    cuda::launch(args.name, ctx.stream, cuda::detail::block_of_lanes<1>::shape(args.groups, count, inner),
                 cuda::detail::stored_swiglu_kernel<P>, source,
                 cuda::code_rows<fp8_e4m3>(args.kept.values, args.kept.scales),
                 cuda::code_rows<fp8_e4m3>(args.y.values, args.y.scales), args.groups, count, inner,
                 args.scales);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::again_args& args) {
    const cuda::detail::gated_tiles<P> source{{args.kept, args.row_gates}, args.scales};
    cuda::narrow_blocks<fp8_e4m3, void>(args.name, ctx.stream, source, cuda::no_rows{},
                                        cuda::transposed_codes<fp8_e4m3>(args.t.values, args.t.scales),
                                        tile_by_tile(args), args.groups, args.kept.extent(0),
                                        args.t.extent(0));
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_args& args) {
    const partial_sums partial = scratch(ctx, ctx.scratch, args);
    const index_t rows = args.dy.extent(0), inner = args.dy.extent(1);
    const cuda::detail::swiglu_slopes<P> source{
        {args.kept, args.row_gates}, cuda::wide_rows<activation<P>>(args.dy), partial};
    const cuda::launch_shape shape{
        .grid = {static_cast<unsigned>(inner / 128), cuda::grid_of(args.groups.tiles(rows))},
        .shared_bytes =
            2 * cuda::detail::strip_rows * 256 * sizeof(typename cuda::detail::swiglu_slopes<P>::numbers)};
    cuda::launch(args.name, ctx.stream, shape, cuda::detail::swiglu_slopes_kernel<P, Gradient>, source,
                 cuda::code_rows<Gradient>(args.y.values, args.y.scales),
                 cuda::transposed_codes<Gradient>(args.t.values, args.t.scales), tile_by_tile(args),
                 args.groups, rows, inner);
    if (!partial.empty())
      cuda::launch(args.name, ctx.stream, {.grid = {1, cuda::grid_of(args.groups.tiles(rows))}, .block = 128},
                   cuda::detail::sum_of_tiles_kernel<accumulator<P>>, view<const accumulator<P>, 2>(partial),
                   args.d_row_gates, args.groups);
  }

 private:
  template <class Args>
  static cuda::block_scales tile_by_tile(const Args& args) {
    return {args.scales, scale_group::tile, nullptr};
  }
};

}  // namespace dsv3::inline DSV3_ABI
