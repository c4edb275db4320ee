// SPDX-License-Identifier: MIT
// Filling a tensor on the GPU.
#pragma once

#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/memory/fill.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// The whole grid walks over the packs; one block more than they need takes the elements left at the end.
template <int Width, class Element>
__global__ void fill_constant_kernel(Element* y, index_t n, Element value) {
  pack<Element, Width> values;
#pragma unroll
  for (int i = 0; i < Width; ++i) values[i] = value;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  const index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (index_t i = first; i < n / Width; i += step) store_pack(y + i * Width, values);
  if (first < n % Width) y[n - n % Width + first] = value;
}

template <class Element>
__global__ void fill_normal_kernel(Element* y, index_t n, random_stream random, double mean, double deviation,
                                   index_t first) {
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    y[i] = Element(mean + deviation * random.normal(static_cast<std::uint64_t>(first + i)));
}

}  // namespace cuda::detail

template <class Element>
struct implementation<op::fill<Element>, backend::cuda> {
  using op_type = op::fill<Element>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::constant_args& args) {
    constexpr int width = cuda::widest<Element>;
    Element* y = args.y.data();
    const index_t n = args.y.extent(0);
    const Element value(args.value);
    const bool packs = cuda::takes_packs<width>(y, 0);
    const cuda::launch_shape shape{.grid = cuda::grid_for(n, packs ? 256 * width : 256)};
    if (packs)
      cuda::launch(op_type::constant_args::name, ctx.stream, shape,
                   cuda::detail::fill_constant_kernel<width, Element>, y, n, value);
    else
      cuda::launch(op_type::constant_args::name, ctx.stream, shape,
                   cuda::detail::fill_constant_kernel<1, Element>, y, n, value);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::normal_args& args) {
    cuda::launch(op_type::normal_args::name, ctx.stream, {.grid = cuda::grid_for(args.y.extent(0), 256)},
                 cuda::detail::fill_normal_kernel<Element>, args.y.data(), args.y.extent(0), args.random,
                 args.mean, args.deviation, args.first);
  }
};

}  // namespace dsv3::inline DSV3_ABI
