// SPDX-License-Identifier: MIT
// The sum of two streams on the GPU.
#pragma once

#include <dsv3/cuda/memory/segments.cuh>
#include <dsv3/op/memory/add.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

template <class P>
struct added {
  static constexpr int packs = 2;
  view<const activation<P>, 2> a, b;
  view<activation<P>, 2> y;

  template <int Width>
  struct operands {
    kept_pack<activation<P>, Width> a, b;
  };

  __device__ bool takes(index_t, index_t) const { return true; }

  template <int Width>
  __device__ operands<Width> load(index_t row, index_t column) const {
    return {kept_pack<activation<P>, Width>(a[row].data() + column),
            kept_pack<activation<P>, Width>(b[row].data() + column)};
  }
  template <int Width>
  __device__ void store(index_t row, index_t column, const operands<Width>& loaded) const {
    using acc = accumulator<P>;
    const auto left = loaded.a.get(), right = loaded.b.get();
    pack<activation<P>, Width> sum;
#pragma unroll
    for (int i = 0; i < Width; ++i) sum[i] = activation<P>(acc(left[i]) + acc(right[i]));
    store_pack(y[row].data() + column, sum);
  }
};

}  // namespace cuda::detail

template <class P>
struct implementation<op::add<P>, backend::cuda> {
  using forward_args = typename op::add<P>::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    constexpr int width = cuda::widest<activation<P>>;
    cuda::detail::added<P> map{args.a, args.b, args.y};
    if (args.a.contiguous() && args.b.contiguous() && args.y.contiguous())
      map = {cuda::one_row(args.a), cuda::one_row(args.b), cuda::one_row(args.y)};
    const index_t rows = map.y.extent(0), columns = map.y.extent(1);
    if (cuda::takes_packs<width>(map.a) && cuda::takes_packs<width>(map.b) && cuda::takes_packs<width>(map.y))
      cuda::launch_segments<width>(forward_args::name, ctx.stream, map, rows, columns);
    else
      cuda::launch_segments<1>(forward_args::name, ctx.stream, map, rows, columns);
  }
};

}  // namespace dsv3::inline DSV3_ABI
