// SPDX-License-Identifier: MIT
// Copies and conversions on the GPU.
#pragma once

#include <dsv3/cuda/memory/segments.cuh>
#include <dsv3/op/memory/copy.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

template <class From, class To>
struct copied {
  static constexpr int packs = 4;
  view<const From, 2> x;
  view<To, 2> y;

  __device__ bool takes(index_t, index_t) const { return true; }

  template <int Width>
  __device__ kept_pack<From, Width> load(index_t row, index_t column) const {
    return kept_pack<From, Width>(x[row].data() + column);
  }
  template <int Width>
  __device__ void store(index_t row, index_t column, const kept_pack<From, Width>& loaded) const {
    const auto from = loaded.get();
    pack<To, Width> to;
#pragma unroll
    for (int i = 0; i < Width; ++i) to[i] = To(from[i]);
    store_pack(y[row].data() + column, to);
  }
};

}  // namespace cuda::detail

template <class From, class To>
struct implementation<op::copy<From, To>, backend::cuda> {
  using forward_args = typename op::copy<From, To>::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    constexpr int width = sizeof(From) > sizeof(To) ? cuda::widest<From> : cuda::widest<To>;
    cuda::detail::copied<From, To> map{args.x, args.y};
    if (args.x.contiguous() && args.y.contiguous()) map = {cuda::one_row(args.x), cuda::one_row(args.y)};
    const index_t rows = map.y.extent(0), columns = map.y.extent(1);
    if (cuda::takes_packs<width>(map.x) && cuda::takes_packs<width>(map.y))
      cuda::launch_segments<width>(forward_args::name, ctx.stream, map, rows, columns);
    else
      cuda::launch_segments<1>(forward_args::name, ctx.stream, map, rows, columns);
  }
};

}  // namespace dsv3::inline DSV3_ABI
