// SPDX-License-Identifier: MIT
// AdamW on the GPU: one pass over the tensor, several neighbouring elements per thread.
#pragma once

#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/optim/adamw.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// What is the same for every element, computed in double and rounded once; by the kernel, what changes from
/// step to step.
template <class Number>
struct adamw_coefficients {
  Number keep_m, take_m, keep_v, take_v;  // β and 1 - β
  Number epsilon, weight_decay;
  Number learning_rate = 0, unbias_m = 0, unbias_v = 0;

  explicit adamw_coefficients(const adamw_config& c)
      : keep_m(Number(c.beta1)),
        take_m(Number(1 - c.beta1)),
        keep_v(Number(c.beta2)),
        take_v(Number(1 - c.beta2)),
        epsilon(Number(c.epsilon)),
        weight_decay(Number(c.weight_decay)) {}
  __device__ void take(const double* pace) {
    learning_rate = Number(pace[0]), unbias_m = Number(pace[1]), unbias_v = Number(pace[2]);
  }
};

/// The addresses of one tensor's five arrays.
template <class P, class Weight>
struct adamw_tensor {
  const gradient<P>* g;
  master<P>* p;
  Weight* w;
  moment<P>*m, *v;

  /// Elements of a pack: the widest type fills 16 bytes, so that neighbouring threads leave no gaps.
  static constexpr int width =
      16 /
      static_cast<int>(std::max({sizeof(gradient<P>), sizeof(master<P>), sizeof(Weight), sizeof(moment<P>)}));
};

// ---- kernels ----------------------------------------------------------------------------------------------

/// `Width` elements of all arrays. Everything is read before anything is written: w may be p.
template <int Width, class P, class Weight>
struct adamw_pack {
  using number = master<P>;
  pack<gradient<P>, Width> g;
  pack<number, Width> p;
  pack<moment<P>, Width> m, v;

  __device__ __forceinline__ void load(const adamw_tensor<P, Weight>& t, index_t at) {
    g = load_pack<Width>(t.g + at);
    p = load_pack<Width>(t.p + at);
    m = load_pack<Width>(t.m + at);
    v = load_pack<Width>(t.v + at);
  }
  __device__ __forceinline__ void move(const adamw_coefficients<number>& c, number scale) {
#pragma unroll
    for (int i = 0; i < Width; ++i) {
      const number slope = number(g[i]) * scale;
      m[i] = moment<P>(c.keep_m * number(m[i]) + c.take_m * slope);
      v[i] = moment<P>(c.keep_v * number(v[i]) + c.take_v * slope * slope);
      const number direction = number(m[i]) * c.unbias_m / (sqrt(number(v[i]) * c.unbias_v) + c.epsilon);
      p[i] -= c.learning_rate * (direction + c.weight_decay * p[i]);
    }
  }
  __device__ __forceinline__ void keep(const adamw_tensor<P, Weight>& t, index_t at) const {
    store_pack(t.m + at, m);
    store_pack(t.v + at, v);
    store_pack(t.p + at, p);
  }
  __device__ __forceinline__ void move(const adamw_coefficients<number>& c, number scale,
                                       const adamw_tensor<P, Weight>& t, index_t at) {
    move(c, scale);
    pack<Weight, Width> w;
#pragma unroll
    for (int i = 0; i < Width; ++i) w[i] = Weight(p[i]);
    keep(t, at);
    store_pack(t.w + at, w);
  }
};

template <int Width, class P, class Weight>
__global__ void __launch_bounds__(256) adamw_kernel(adamw_tensor<P, Weight> t, index_t n, const double* clip,
                                                    const double* pace, adamw_coefficients<master<P>> c) {
  const double factor = *clip;
  c.take(pace);
  if (!isfinite(factor)) return;
  const master<P> scale(factor);
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x, packs = n / Width;
  const index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  index_t i = first;
  for (; i + step < packs; i += 2 * step) {
    adamw_pack<Width, P, Weight> near, far;
    near.load(t, i * Width);
    far.load(t, (i + step) * Width);
    near.move(c, scale, t, i * Width);
    far.move(c, scale, t, (i + step) * Width);
  }
  adamw_pack<Width, P, Weight> last;
  if (i < packs) last.load(t, i * Width), last.move(c, scale, t, i * Width);
  adamw_pack<1, P, Weight> rest;
  const index_t at = packs * Width + first;
  if (at < n) rest.load(t, at), rest.move(c, scale, t, at);
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P, class Weight>
struct implementation<op::adamw<P, Weight>, backend::cuda> {
  using op_type = op::adamw<P, Weight>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::step_args& args) {
    const cuda::detail::adamw_tensor<P, Weight> t{args.g.data(), args.p.data(), args.w.data(), args.m.data(),
                                                  args.v.data()};
    constexpr int width = cuda::detail::adamw_tensor<P, Weight>::width;
    const bool packs = cuda::takes_packs<width>(t.g, 0) && cuda::takes_packs<width>(t.p, 0) &&
                       cuda::takes_packs<width>(t.w, 0) && cuda::takes_packs<width>(t.m, 0) &&
                       cuda::takes_packs<width>(t.v, 0);
    packs ? launch<width>(ctx, args, t) : launch<1>(ctx, args, t);
  }

 private:
  template <int Width, class Ctx>
  static void launch(Ctx& ctx, const typename op_type::step_args& args,
                     const cuda::detail::adamw_tensor<P, Weight>& t) {
    const index_t n = args.g.extent(0);
    const cuda::detail::adamw_coefficients<master<P>> c(args.config);
    cuda::launch(op_type::step_args::name, ctx.stream, {.grid = cuda::grid_for(n, 2 * 256 * Width)},
                 cuda::detail::adamw_kernel<Width, P, Weight>, t, n, args.scale.data(), args.pace.data(), c);
  }
};

}  // namespace dsv3::inline DSV3_ABI
