// SPDX-License-Identifier: MIT
// The global norm on the GPU: every block sums its share of the elements of all tensors in double, one more
// block adds the shares in order.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/add_sum.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/optim/global_norm.hpp>

#include <algorithm>
#include <span>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// Blocks for each of 132 multiprocessors, whatever GPU it is, as the sum's bits depend on their number; all
/// are at work at once. The elements come in chunks, which go round among the blocks.
inline constexpr int norm_threads = 256, norm_blocks = 4 * 132, norm_chunk = 32768;

/// The tensors of one launch, a parameter of the kernel.
template <class Element>
struct norm_tensors {
  static constexpr int most = 512;
  const Element* data[most];
  index_t elements[most];
  int first_chunk[most + 1];  // counted through all tensors
  int count;
};

// ---- kernels ----------------------------------------------------------------------------------------------

/// Adds the squares of `n` elements, which the threads of a block share, to each thread's sums.
template <int Width, class Element>
__device__ __forceinline__ void add_squares(const Element* x, int n, double (&sums)[4]) {
  constexpr int in_flight = 8;
  const int packs = n / Width;
  const auto add = [](double& to, const pack<Element, Width>& values) {
#pragma unroll
    for (int i = 0; i < Width; ++i) {
      const auto value = static_cast<double>(values[i]);
      to = fma(value, value, to);
    }
  };
  int at = static_cast<int>(threadIdx.x);
  for (; at + (in_flight - 1) * norm_threads < packs; at += in_flight * norm_threads) {
    pack<Element, Width> values[in_flight];
#pragma unroll
    for (int j = 0; j < in_flight; ++j) values[j] = load_pack<Width>(x + (at + j * norm_threads) * Width);
#pragma unroll
    for (int j = 0; j < in_flight; ++j) add(sums[j % 4], values[j]);
  }
  for (; at < packs; at += norm_threads) add(sums[0], load_pack<Width>(x + at * Width));
  if (static_cast<int>(threadIdx.x) < n % Width) {
    const auto value = static_cast<double>(x[packs * Width + static_cast<int>(threadIdx.x)]);
    sums[1] = fma(value, value, sums[1]);
  }
}

/// The block's share: every gridDim.x-th chunk.
template <class Element>
__global__ void __launch_bounds__(norm_threads, 4)
    square_sums_kernel(const __grid_constant__ norm_tensors<Element> all, double* shares) {
  constexpr int width = widest<Element>;
  __shared__ double room[32];
  double sums[4] = {};
  const int chunks = all.first_chunk[all.count];
  int tensor = 0;
  for (int chunk = static_cast<int>(blockIdx.x); chunk < chunks; chunk += static_cast<int>(gridDim.x)) {
    while (chunk >= all.first_chunk[tensor + 1]) ++tensor;
    const index_t first = index_t{chunk - all.first_chunk[tensor]} * norm_chunk;
    const Element* x = all.data[tensor] + first;
    const auto n = static_cast<int>(min(all.elements[tensor] - first, index_t{norm_chunk}));
    if (reinterpret_cast<std::uintptr_t>(x) % sizeof(pack<Element, width>) == 0)
      add_squares<width>(x, n, sums);
    else
      add_squares<1>(x, n, sums);
  }
  const double share = reduce_block((sums[0] + sums[1]) + (sums[2] + sums[3]), room, plus{});
  if (threadIdx.x == 0) shares[blockIdx.x] = share;
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

/// As many tensors at a time as a kernel's parameters take.
template <class Element>
struct implementation<op::global_norm<Element>, backend::cuda> {
  using op_type = op::global_norm<Element>;
  using tensors = cuda::detail::norm_tensors<Element>;

  /// [norm_blocks]   the share of each block
  template <class Ctx>
  static view<double, 1> scratch(const Ctx&, scratch_arena& arena, const typename op_type::accumulate_args&) {
    return arena.tensor<double>(cuda::detail::norm_blocks);
  }
  template <class Ctx>
  static view<double, 1> scratch(const Ctx&, scratch_arena& arena,
                                 const typename op_type::accumulate_all_args&) {
    return arena.tensor<double>(cuda::detail::norm_blocks);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::accumulate_args& args) {
    accumulate(ctx, args, std::span(&args.x, 1));
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::accumulate_all_args& args) {
    accumulate(ctx, args, args.tensors);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::finish_args& args) {
    cuda::launch(op_type::finish_args::name, ctx.stream, {.block = 1},
                 cuda::detail::finish_norm_kernel<double>, args.sum.data(), args.limit, args.finite.data(),
                 args.finite.extent(0), args.norm.data(), args.scale.data());
  }

 private:
  template <class Ctx, class Args>
  static void accumulate(Ctx& ctx, const Args& args, std::span<const view<const Element, 1>> all) {
    const view<double, 1> shares = scratch(ctx, ctx.scratch, args);
    tensors listed = {};
    const auto add_listed = [&] {
      const int blocks = std::min(listed.first_chunk[listed.count], cuda::detail::norm_blocks);
      if (blocks > 0) {
        cuda::launch(Args::name, ctx.stream,
                     {.grid = static_cast<unsigned>(blocks), .block = cuda::detail::norm_threads},
                     cuda::detail::square_sums_kernel<Element>, listed, shares.data());
        cuda::add_sum(Args::name, ctx.stream, shares.rows(0, blocks), 1, args.sum.data());
      }
      listed.count = 0;
    };
    for (const view<const Element, 1>& x : all) {
      const index_t chunks = ceil_div(x.extent(0), cuda::detail::norm_chunk);
      listed.data[listed.count] = x.data();
      listed.elements[listed.count] = x.extent(0);
      listed.first_chunk[listed.count + 1] = listed.first_chunk[listed.count] + static_cast<int>(chunks);
      if (++listed.count == tensors::most) add_listed();
    }
    add_listed();
  }
};

}  // namespace dsv3::inline DSV3_ABI
