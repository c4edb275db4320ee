// SPDX-License-Identifier: MIT
// AdamW on the GPU: one pass over all tensors, several neighbouring elements per thread.
#pragma once

#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/optim/adamw.hpp>

#include <algorithm>
#include <span>

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

  /// Whether all five start where packs do.
  bool takes_packs() const {
    return cuda::takes_packs<width>(g, 0) && cuda::takes_packs<width>(p, 0) &&
           cuda::takes_packs<width>(w, 0) && cuda::takes_packs<width>(m, 0) && cuda::takes_packs<width>(v, 0);
  }
};

/// A block moves a chunk at a time, two packs a thread; chunks go round among the blocks, so that all of them
/// are near each other.
inline constexpr int adamw_threads = 256;
template <class P, class Weight>
inline constexpr int adamw_chunk = 2 * adamw_threads* adamw_tensor<P, Weight>::width;

/// The tensors of one launch, a parameter of the kernel.
template <class P, class Weight>
struct adamw_tensors {
  static constexpr int most = 256;
  adamw_tensor<P, Weight> at[most];
  index_t elements[most];
  int first_chunk[most + 1];  // counted through all tensors
  bool packs[most], decays[most];
  int count;
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

/// Elements [first, first + n), at most a chunk, by the threads of a block.
template <int Width, class P, class Weight>
__device__ __forceinline__ void move_chunk(const adamw_tensor<P, Weight>& t, index_t first, int n,
                                           const adamw_coefficients<master<P>>& c, master<P> scale) {
  const int thread = static_cast<int>(threadIdx.x), packs = n / Width;
  int i = thread;
  for (; i + adamw_threads < packs; i += 2 * adamw_threads) {
    adamw_pack<Width, P, Weight> near, far;
    near.load(t, first + i * Width);
    far.load(t, first + (i + adamw_threads) * Width);
    near.move(c, scale, t, first + i * Width);
    far.move(c, scale, t, first + (i + adamw_threads) * Width);
  }
  adamw_pack<Width, P, Weight> last;
  if (i < packs) last.load(t, first + i * Width), last.move(c, scale, t, first + i * Width);
  adamw_pack<1, P, Weight> rest;
  const int at = packs * Width + thread;
  if (at < n) rest.load(t, first + at), rest.move(c, scale, t, first + at);
}

template <class P, class Weight>
__global__ void __launch_bounds__(adamw_threads)
    adamw_kernel(const __grid_constant__ adamw_tensors<P, Weight> all, const double* clip, const double* pace,
                 adamw_coefficients<master<P>> c) {
  constexpr int chunk_elements = adamw_chunk<P, Weight>;
  const double factor = *clip;
  c.take(pace);
  if (!isfinite(factor)) return;
  const master<P> scale(factor), decay = c.weight_decay;
  const int chunks = all.first_chunk[all.count];
  int tensor = 0;
  for (int chunk = static_cast<int>(blockIdx.x); chunk < chunks; chunk += static_cast<int>(gridDim.x)) {
    while (chunk >= all.first_chunk[tensor + 1]) ++tensor;
    c.weight_decay = all.decays[tensor] ? decay : master<P>(0);
    const index_t first = index_t{chunk - all.first_chunk[tensor]} * chunk_elements;
    const auto n = static_cast<int>(min(all.elements[tensor] - first, index_t{chunk_elements}));
    if (all.packs[tensor])
      move_chunk<adamw_tensor<P, Weight>::width>(all.at[tensor], first, n, c, scale);
    else
      move_chunk<1>(all.at[tensor], first, n, c, scale);
  }
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

/// As many tensors at a time as a kernel's parameters take.
template <class P, class Weight>
struct implementation<op::adamw<P, Weight>, backend::cuda> {
  using op_type = op::adamw<P, Weight>;
  using step_args = typename op_type::step_args;

  template <class Ctx>
  static void run(Ctx& ctx, const step_args& args) {
    const typename op_type::tensor only{args.g, args.p, args.w, args.m, args.v};
    move(ctx, args, std::span(&only, 1));
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::step_all_args& args) {
    move(ctx, args, args.tensors);
  }

 private:
  using tensors = cuda::detail::adamw_tensors<P, Weight>;

  template <class Ctx, class Args>
  static void move(Ctx& ctx, const Args& args, std::span<const typename op_type::tensor> all) {
    const cuda::detail::adamw_coefficients<master<P>> c(args.config);
    tensors listed = {};
    const auto move_listed = [&] {
      const int chunks = listed.first_chunk[listed.count];
      cuda::launch(Args::name, ctx.stream,
                   {.grid = cuda::grid_for(chunks, 1), .block = cuda::detail::adamw_threads},
                   cuda::detail::adamw_kernel<P, Weight>, listed, args.scale.data(), args.pace.data(), c);
      listed.count = 0;
    };
    for (const typename op_type::tensor& t : all) {
      const int i = listed.count++;
      listed.at[i] = {t.g.data(), t.p.data(), t.w.data(), t.m.data(), t.v.data()};
      listed.elements[i] = t.g.extent(0);
      listed.packs[i] = listed.at[i].takes_packs();
      listed.decays[i] = t.decays;
      listed.first_chunk[i + 1] =
          listed.first_chunk[i] +
          static_cast<int>(ceil_div(t.g.extent(0), cuda::detail::adamw_chunk<P, Weight>));
      if (listed.count == tensors::most) move_listed();
    }
    move_listed();
  }
};

}  // namespace dsv3::inline DSV3_ABI
