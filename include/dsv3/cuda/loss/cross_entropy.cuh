// SPDX-License-Identifier: MIT
// Cross entropy on the GPU: one block per token; forward reads a row of logits once.
#pragma once

#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/add_sum.cuh>
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/loss/cross_entropy.hpp>

#include <cmath>
#include <cstdint>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// Leaves in `bad` whether a target is no token, and reports the first: before anything is written, as the
/// other kernels then write nothing.
template <class Target>
__global__ void check_targets_kernel(const Target* targets, index_t tokens, index_t vocab, int* bad,
                                     misuse no_token) {
  __shared__ long long room[32];
  long long first = tokens;
  for (index_t t = threadIdx.x; t < tokens && first == tokens; t += blockDim.x)
    if (targets[t] < -1 || targets[t] >= vocab) first = t;
  first = reduce_block(first, room, [](long long a, long long b) { return a < b ? a : b; });
  if (threadIdx.x > 0) return;
  *bad = first < tokens;
  if (first < tokens) no_token.report(first, targets[first], vocab);
}

/// Σ exp(x − largest) so far, over what one thread saw. A NaN or +infinity makes the sum NaN.
template <class Acc>
struct exp_sum {
  Acc largest = -Acc(INFINITY);
  double sum = 0;

  /// The terms of one call are summed in the accumulator.
  template <int Count>
  __device__ __forceinline__ void add(const Acc (&x)[Count]) {
    Acc top = largest;
#pragma unroll
    for (int i = 0; i < Count; ++i) top = x[i] > top ? x[i] : top;
    if (top > largest) sum *= exp(largest - top), largest = top;
    // While nothing but -infinity came, differences to it would be NaN.
    const Acc origin = largest == -Acc(INFINITY) ? Acc(0) : largest;
    Acc part = 0;
#pragma unroll
    for (int i = 0; i < Count; ++i) part += exp(x[i] - origin);
    sum += part;
  }
};

template <int Width, class Acc>
__global__ void __launch_bounds__(512)
    cross_entropy_forward_kernel(const Acc* logits, index_t stride, index_t vocab,
                                 const std::int32_t* targets, const int* bad, double* losses, Acc* lse) {
  constexpr int in_flight = 4;
  __shared__ Acc room_largest[32];
  __shared__ double room_sum[32];
  if (*bad) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0;  // the sum of what is not told adds nothing
    return;
  }
  const index_t t = blockIdx.x, packs = vocab / Width;
  const Acc* row = logits + t * stride;

  exp_sum<Acc> seen;
  index_t at = threadIdx.x;
  for (; at + (in_flight - 1) * blockDim.x < packs; at += in_flight * blockDim.x) {
    Acc x[in_flight * Width];
#pragma unroll
    for (int j = 0; j < in_flight; ++j) {
      const auto values = load_pack<Width>(row + (at + j * blockDim.x) * Width);
#pragma unroll
      for (int i = 0; i < Width; ++i) x[j * Width + i] = values[i];
    }
    seen.add(x);
  }
  for (; at < packs; at += blockDim.x) seen.add(load_pack<Width>(row + at * Width).value);
  if (threadIdx.x < vocab % Width) seen.add(load_pack<1>(row + packs * Width + threadIdx.x).value);

  const Acc largest = reduce_block(seen.largest, room_largest, larger{});
  const double sum = reduce_block(seen.sum * double(exp(seen.largest - largest)), room_sum, plus{});
  if (threadIdx.x > 0) return;
  const double top = double(largest), rest = log(vocab > 0 ? sum : 0.0);
  const index_t target = targets[t];
  losses[t] = target < 0 ? 0 : (top - double(row[target])) + rest;  // large logits must not swallow rest
  lse[t] = static_cast<Acc>(top + rest);
}

/// May write over what it reads: every element is read and written by the same thread.
template <int Width, class Acc, class Gradient>
__global__ void __launch_bounds__(512)
    cross_entropy_backward_kernel(const Acc* logits, index_t stride, index_t vocab,
                                  const std::int32_t* targets, const int* bad, const Acc* lse, Acc scale,
                                  Gradient* dlogits, index_t dstride) {
  constexpr int in_flight = 4;
  if (*bad) return;
  const index_t t = blockIdx.x, packs = vocab / Width, target = targets[t];
  const Acc* row = logits + t * stride;
  Gradient* to = dlogits + t * dstride;
  const Acc normaliser = lse[t];
  const auto write = [&](const auto& values, index_t first) {
    constexpr int count = static_cast<int>(sizeof(values) / sizeof(Acc));
    pack<Gradient, count> slopes;
#pragma unroll
    for (int i = 0; i < count; ++i)
      slopes[i] = Gradient(
          target < 0 ? Acc(0)
                     : fma(scale, exp(values[i] - normaliser), first + i == target ? -scale : Acc(0)));
    store_pack(to + first, slopes);
  };
  index_t at = threadIdx.x;
  for (; at + (in_flight - 1) * blockDim.x < packs; at += in_flight * blockDim.x) {
    pack<Acc, Width> values[in_flight];
#pragma unroll
    for (int j = 0; j < in_flight; ++j) values[j] = load_pack<Width>(row + (at + j * blockDim.x) * Width);
#pragma unroll
    for (int j = 0; j < in_flight; ++j) write(values[j], (at + j * blockDim.x) * Width);
  }
  for (; at < packs; at += blockDim.x) write(load_pack<Width>(row + at * Width), at * Width);
  const index_t last = packs * Width + threadIdx.x;
  if (last < vocab) write(load_pack<1>(row + last), last);
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P, class Gradient>
struct implementation<op::cross_entropy<P, Gradient>, backend::cuda> {
  using op_type = op::cross_entropy<P, Gradient>;
  using acc = accumulator<P>;

  struct forward_scratch {
    int* bad;                // [1]        whether a target is no token
    view<double, 1> losses;  // [tokens]   the loss of each
  };
  template <class Ctx>
  static forward_scratch scratch(const Ctx&, scratch_arena& arena,
                                 const typename op_type::forward_args& args) {
    return {arena.take<int>(1), arena.tensor<double>(args.logits.extent(0))};
  }
  template <class Ctx>
  static int* scratch(const Ctx&, scratch_arena& arena, const typename op_type::backward_args&) {
    return arena.take<int>(1);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::forward_args& args) {
    const forward_scratch work = scratch(ctx, ctx.scratch, args);
    if (args.logits.extent(0) == 0) return;
    check_targets(ctx, args, work.bad);
    const auto kernel = cuda::takes_packs<width>(args.logits.data(), args.logits.stride(0))
                            ? cuda::detail::cross_entropy_forward_kernel<width, acc>
                            : cuda::detail::cross_entropy_forward_kernel<1, acc>;
    cuda::launch(op_type::forward_args::name, ctx.stream, shape_of(args), kernel, args.logits.data(),
                 args.logits.stride(0), args.logits.extent(1), args.targets.data(), work.bad,
                 work.losses.data(), args.lse.data());
    cuda::add_sum(op_type::forward_args::name, ctx.stream, work.losses, args.scale, args.loss.data());
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_args& args) {
    int* bad = scratch(ctx, ctx.scratch, args);
    if (args.logits.extent(0) == 0) return;
    check_targets(ctx, args, bad);
    const bool packs = cuda::takes_packs<width>(args.logits.data(), args.logits.stride(0)) &&
                       cuda::takes_packs<width>(args.dlogits.data(), args.dlogits.stride(0));
    const auto kernel = packs ? cuda::detail::cross_entropy_backward_kernel<width, acc, Gradient>
                              : cuda::detail::cross_entropy_backward_kernel<1, acc, Gradient>;
    cuda::launch(op_type::backward_args::name, ctx.stream, shape_of(args), kernel, args.logits.data(),
                 args.logits.stride(0), args.logits.extent(1), args.targets.data(), bad, args.lse.data(),
                 acc(args.scale), args.dlogits.data(), args.dlogits.stride(0));
  }

 private:
  static constexpr int width = cuda::widest<acc>;

  // One block per token, its threads as the row is long.
  template <class Args>
  static cuda::launch_shape shape_of(const Args& args) {
    const index_t vocab = args.logits.extent(1);
    return {.grid = static_cast<unsigned>(args.logits.extent(0)),
            .block = vocab >= 16384  ? 512u
                     : vocab >= 2048 ? 256u
                                     : 64u};
  }

  template <class Ctx, class Args>
  static void check_targets(Ctx& ctx, const Args& args, int* bad) {
    cuda::launch(Args::name, ctx.stream, {.block = 1024}, cuda::detail::check_targets_kernel<std::int32_t>,
                 args.targets.data(), args.targets.extent(0), args.logits.extent(1), bad,
                 cuda::misuse_of(ctx, "the target of token {} is {}, expected -1 (ignored) or an id below {}",
                                 Args::name));
  }
};

}  // namespace dsv3::inline DSV3_ABI
