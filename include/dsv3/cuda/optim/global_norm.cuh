// SPDX-License-Identifier: MIT
// The global norm on the GPU: every block sums its share of the elements in double, one more block adds the
// shares in order.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/add_sum.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/optim/global_norm.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// The block's share: every gridDim.x-th stretch of blockDim.x packs; the elements left at the end go to the
/// first threads of the first block.
template <int Width, class Element>
__global__ void __launch_bounds__(256) square_sums_kernel(const Element* x, index_t n, double* sums) {
  constexpr int in_flight = 4;
  __shared__ double room[32];
  const index_t packs = n / Width, step = static_cast<index_t>(gridDim.x) * blockDim.x;
  const index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  double sum[in_flight] = {};
  const auto add = [](double& to, const pack<Element, Width>& values) {
#pragma unroll
    for (int i = 0; i < Width; ++i) {
      const auto value = static_cast<double>(values[i]);
      to = fma(value, value, to);
    }
  };
  index_t at = first;
  for (; at + (in_flight - 1) * step < packs; at += in_flight * step) {
    pack<Element, Width> values[in_flight];
#pragma unroll
    for (int j = 0; j < in_flight; ++j) values[j] = load_pack<Width>(x + (at + j * step) * Width);
#pragma unroll
    for (int j = 0; j < in_flight; ++j) add(sum[j], values[j]);
  }
  for (; at < packs; at += step) add(sum[0], load_pack<Width>(x + at * Width));
  if (first < n % Width) {
    const auto value = static_cast<double>(x[packs * Width + first]);
    sum[1] = fma(value, value, sum[1]);
  }
  const double all = reduce_block((sum[0] + sum[1]) + (sum[2] + sum[3]), room, plus{});
  if (threadIdx.x == 0) sums[blockIdx.x] = all;
}

template <class Number>
__global__ void finish_norm_kernel(const Number* sum, Number limit, const Number* others, index_t count,
                                   Number* norm, Number* scale) {
  const Number found = sqrt(*sum);
  *norm = found;
  bool finite = isfinite(found);
  for (index_t i = 0; i < count; ++i) finite = finite && isfinite(others[i]);
  *scale = finite ? min(Number(1), limit / (found + Number(1e-6))) : Number(nan(""));
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class Element>
struct implementation<op::global_norm<Element>, backend::cuda> {
  using op_type = op::global_norm<Element>;

  /// [blocks]   the sum of each block. Their number depends on the elements alone, so that the sum does: no
  ///            more than four for each of 132 multiprocessors, which hold them all at once. A second wave
  ///            of a few blocks would take as long as the first.
  template <class Ctx>
  static view<double, 1> scratch(const Ctx&, scratch_arena& arena,
                                 const typename op_type::accumulate_args& args) {
    return arena.tensor<double>(std::min<index_t>(ceil_div(args.x.extent(0), 4096), 4 * 132));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::accumulate_args& args) {
    constexpr int width = cuda::widest<Element>;
    const view<double, 1> sums = scratch(ctx, ctx.scratch, args);
    if (sums.empty()) return;
    const auto kernel = cuda::takes_packs<width>(args.x.data(), 0)
                            ? cuda::detail::square_sums_kernel<width, Element>
                            : cuda::detail::square_sums_kernel<1, Element>;
    cuda::launch(op_type::accumulate_args::name, ctx.stream, {.grid = static_cast<unsigned>(sums.extent(0))},
                 kernel, args.x.data(), args.x.extent(0), sums.data());
    cuda::add_sum(op_type::accumulate_args::name, ctx.stream, sums, 1, args.sum.data());
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::finish_args& args) {
    cuda::launch(op_type::finish_args::name, ctx.stream, {.block = 1},
                 cuda::detail::finish_norm_kernel<double>, args.sum.data(), args.limit, args.finite.data(),
                 args.finite.extent(0), args.norm.data(), args.scale.data());
  }
};

}  // namespace dsv3::inline DSV3_ABI
