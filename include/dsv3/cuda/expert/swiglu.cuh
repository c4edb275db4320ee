// SPDX-License-Identifier: MIT
// SwiGLU on the GPU.
#pragma once

#include <dsv3/cuda/device/math.cuh>
#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/memory/segments.cuh>
#include <dsv3/op/expert/swiglu.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- selection --------------------------------------------------------------------------------------------

/// Threads of a row in backward, which sum its gate's gradient. It depends on the row alone, so that the sum
/// does.
constexpr unsigned swiglu_row_threads(index_t inner) { return inner <= 4096 ? 32 : 256; }

// ---- kernels ----------------------------------------------------------------------------------------------

template <class Args>
__device__ bool is_live(const Args& args, index_t row) {
  return args.token_of.empty() || args.token_of(row) >= 0;
}
template <class P, class Args>
__device__ accumulator<P> gate_of_row(const Args& args, index_t row) {
  return args.row_gates.empty() ? accumulator<P>(1) : args.row_gates(row);
}

template <class P>
struct activated {
  static constexpr int packs = 2;
  typename op::swiglu<P>::forward_args args;

  template <int Width>
  struct halves {
    kept_pack<activation<P>, Width> gate, up;
    accumulator<P> w;
  };

  __device__ bool takes(index_t row, index_t) const { return is_live(args, row); }

  template <int Width>
  __device__ halves<Width> load(index_t row, index_t column) const {
    const activation<P>* gate = args.gate_up[row].data() + column;
    return {kept_pack<activation<P>, Width>(gate), kept_pack<activation<P>, Width>(gate + args.y.extent(1)),
            gate_of_row<P>(args, row)};
  }
  template <int Width>
  __device__ void store(index_t row, index_t column, const halves<Width>& loaded) const {
    using acc = accumulator<P>;
    const auto gate = loaded.gate.get(), up = loaded.up.get();
    pack<activation<P>, Width> y;
#pragma unroll
    for (int i = 0; i < Width; ++i) {
      const acc g = acc(gate[i]);
      y[i] = activation<P>(loaded.w * g * sigmoid(g) * acc(up[i]));
    }
    store_pack(args.y[row].data() + column, y);
  }
};

/// A warp or a whole block holds a row, see swiglu_row_threads; who has a padding row leaves together. Both
/// halves of a column are read before either is written, so d_gate_up may be gate_up.
template <class P, int Width>
__global__ void __launch_bounds__(256)
    swiglu_backward_kernel(const typename op::swiglu<P>::backward_args args) {
  using acc = accumulator<P>;
  using T = activation<P>;
  constexpr int packs = 2;
  __shared__ acc room[32];
  const index_t row = static_cast<index_t>(blockIdx.x) * blockDim.y + threadIdx.y, inner = args.dy.extent(1);
  if (row >= args.dy.extent(0) || !is_live(args, row)) return;
  const T *gate = args.gate_up[row].data(), *up = gate + inner, *dy = args.dy[row].data();
  T *d_gate = args.d_gate_up[row].data(), *d_up = d_gate + inner;
  const acc w = gate_of_row<P>(args, row);
  const index_t step = static_cast<index_t>(blockDim.x) * Width;
  acc d_row_gate = 0;
  for (index_t first = threadIdx.x * Width; first < inner; first += packs * step) {
    kept_pack<T, Width> gates[packs], ups[packs], slopes[packs];
#pragma unroll
    for (int p = 0; p < packs; ++p)
      if (const index_t at = first + p * step; at < inner) {
        gates[p] = kept_pack<T, Width>(gate + at);
        ups[p] = kept_pack<T, Width>(up + at);
        slopes[p] = kept_pack<T, Width>(dy + at);
      }
#pragma unroll
    for (int p = 0; p < packs; ++p)
      if (const index_t at = first + p * step; at < inner) {
        const auto gates_here = gates[p].get(), ups_here = ups[p].get(), slopes_here = slopes[p].get();
        pack<T, Width> dg, du;
#pragma unroll
        for (int i = 0; i < Width; ++i) {
          const acc g = acc(gates_here[i]), u = acc(ups_here[i]), d = acc(slopes_here[i]);
          const acc sigma = sigmoid(g), silu = g * sigma;
          d_row_gate += d * silu * u;
          dg[i] = T(w * d * u * (sigma + silu * (1 - sigma)));
          du[i] = T(w * d * silu);
        }
        store_pack(d_gate + at, dg);
        store_pack(d_up + at, du);
      }
  }
  if (args.d_row_gates.empty()) return;
  d_row_gate = reduce_block(d_row_gate, room, plus{});
  if (threadIdx.x == 0) args.d_row_gates(row) = d_row_gate;
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P>
struct implementation<op::swiglu<P>, backend::cuda> {
  using op_type = op::swiglu<P>;
  static constexpr int width = cuda::widest<activation<P>>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    const cuda::detail::activated<P> map{args};
    const index_t rows = args.y.extent(0), inner = args.y.extent(1);
    if (inner % width == 0 && cuda::takes_packs<width>(args.gate_up) && cuda::takes_packs<width>(args.y))
      cuda::launch_segments<width>(args.name, ctx.stream, map, rows, inner);
    else
      cuda::launch_segments<1>(args.name, ctx.stream, map, rows, inner);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_args& args) {
    const index_t rows = args.dy.extent(0), inner = args.dy.extent(1);
    const unsigned threads = cuda::detail::swiglu_row_threads(inner), at_once = threads == 32 ? 8 : 1;
    const cuda::launch_shape shape{.grid = static_cast<unsigned>(ceil_div(rows, at_once)),
                                   .block = {threads, at_once}};
    if (inner % width == 0 && cuda::takes_packs<width>(args.gate_up) && cuda::takes_packs<width>(args.dy) &&
        cuda::takes_packs<width>(args.d_gate_up))
      cuda::launch(args.name, ctx.stream, shape, cuda::detail::swiglu_backward_kernel<P, width>, args);
    else
      cuda::launch(args.name, ctx.stream, shape, cuda::detail::swiglu_backward_kernel<P, 1>, args);
  }
};

}  // namespace dsv3::inline DSV3_ABI
