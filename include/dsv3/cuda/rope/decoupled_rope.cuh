// SPDX-License-Identifier: MIT
// Rotary embedding on the GPU.
#pragma once

#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/rope/decoupled_rope.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// Frequencies come from the host, which knows the stretch: as many as one launch takes along.
struct rope_frequencies {
  static constexpr index_t most = 64;
  double of[most];
};

/// Heads that a thread rotates with the cosines it holds: four packs in all.
template <rope_layout Layout>
inline constexpr int rope_heads = Layout == rope_layout::interleaved ? 4 : 2;

// ---- kernels ----------------------------------------------------------------------------------------------

/// `pairs` of them from `first` on. Angles are computed in double whatever the precision: far positions turn
/// through thousands of radians.
template <class Acc>
__global__ void __launch_bounds__(256)
    rope_table_kernel(view<Acc, 2> cosine, view<Acc, 2> sine, rope_frequencies frequencies, index_t first,
                      index_t pairs, double factor) {
  const index_t n = cosine.extent(0) * pairs, step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t at = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < n; at += step) {
    const index_t position = at / pairs, i = at % pairs;
    double sin_angle, cos_angle;
    sincos(static_cast<double>(position) * frequencies.of[i], &sin_angle, &cos_angle);
    cosine(position, first + i) = static_cast<Acc>(factor * cos_angle);
    sine(position, first + i) = static_cast<Acc>(factor * sin_angle);
  }
}

/// Width pairs of a head in two packs that lie `apart`, or one pair anyhow.
template <class T, int Width>
struct pairs_apart {
  kept_pack<T, Width> side[2];

  __device__ void load(const T* x, index_t apart) {
    side[0] = kept_pack<T, Width>(x), side[1] = kept_pack<T, Width>(x + apart);
  }
  /// turn(pair, a, b) changes the two.
  template <class Turn>
  __device__ void store(T* x, index_t apart, const Turn& turn) const {
    auto a = side[0].get(), b = side[1].get();
#pragma unroll
    for (int i = 0; i < Width; ++i) turn(i, a[i], b[i]);
    store_pack(x, a), store_pack(x + apart, b);
  }
};
/// Width pairs of neighbours in one pack.
template <class T, int Width>
struct pairs_together {
  kept_pack<T, 2 * Width> both;

  __device__ void load(const T* x, index_t) { both = kept_pack<T, 2 * Width>(x); }
  template <class Turn>
  __device__ void store(T* x, index_t, const Turn& turn) const {
    auto pairs = both.get();
#pragma unroll
    for (int i = 0; i < Width; ++i) turn(i, pairs[2 * i], pairs[2 * i + 1]);
    store_pack(x, pairs);
  }
};

/// threadIdx.x counts packs of pairs, y heads, z tokens.
template <class P, rope_layout Layout, int Width>
__global__ void __launch_bounds__(256)
    rope_apply_kernel(const typename op::decoupled_rope<P, Layout>::apply_args args,
                      const misuse no_such_position) {
  using acc = accumulator<P>;
  using T = activation<P>;
  constexpr bool neighbours = Layout == rope_layout::interleaved;
  constexpr int at_once = rope_heads<Layout>;
  const index_t heads = args.x.extent(1), pairs = args.table.cosine.extent(1), apart = neighbours ? 1 : pairs;
  const index_t t = static_cast<index_t>(blockIdx.x) * blockDim.z + threadIdx.z;
  const index_t first_head = static_cast<index_t>(blockIdx.y) * blockDim.y * at_once + threadIdx.y;
  if (t >= args.x.extent(0)) return;
  const index_t position = args.positions(t), positions = args.table.cosine.extent(0);
  if (position < 0 || position >= positions) {
    if (threadIdx.x == 0 && first_head == 0) no_such_position.report(t, position, positions);
    return;
  }
  for (index_t i = threadIdx.x * Width; i < pairs; i += blockDim.x * Width) {
    T* x = args.x[t][0].data() + (neighbours ? 2 * i : i);
    const index_t stride = args.x.stride(1);
    std::conditional_t<neighbours && (Width > 1), pairs_together<T, Width>, pairs_apart<T, Width>>
        loaded[at_once];
#pragma unroll
    for (int k = 0; k < at_once; ++k)
      if (const index_t head = first_head + k * blockDim.y; head < heads)
        loaded[k].load(x + head * stride, apart);
    const auto cosine = load_pack<Width>(args.table.cosine[position].data() + i);
    const auto sine = load_pack<Width>(args.table.sine[position].data() + i);
    const acc direction = args.direction == rotation::forward ? acc(1) : acc(-1);
    const auto turn = [&](int pair, T& first, T& second) {
      const acc a = acc(first), b = acc(second), s = direction * sine[pair];
      first = T(a * cosine[pair] - b * s);
      second = T(a * s + b * cosine[pair]);
    };
#pragma unroll
    for (int k = 0; k < at_once; ++k)
      if (const index_t head = first_head + k * blockDim.y; head < heads)
        loaded[k].store(x + head * stride, apart, turn);
  }
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P, rope_layout Layout>
struct implementation<op::decoupled_rope<P, Layout>, backend::cuda> {
  using op_type = op::decoupled_rope<P, Layout>;
  using acc = accumulator<P>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::table_args& args) {
    using frequencies = cuda::detail::rope_frequencies;
    const auto& table = args.table;
    const index_t positions = table.cosine.extent(0), pairs = table.cosine.extent(1);
    for (index_t first = 0; first < pairs; first += frequencies::most) {
      const index_t count = std::min(frequencies::most, pairs - first);
      frequencies some = {};
      for (index_t i = 0; i < count; ++i) some.of[i] = args.rope.frequency(first + i, 2 * pairs);
      cuda::launch(args.name, ctx.stream, {.grid = cuda::grid_for(positions * count, 256)},
                   cuda::detail::rope_table_kernel<acc>, table.cosine, table.sine, some, first, count,
                   args.rope.attention_factor());
    }
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::apply_args& args) {
    constexpr bool neighbours = Layout == rope_layout::interleaved;
    constexpr int moved = cuda::widest<activation<P>>, width = neighbours ? moved / 2 : moved;
    const auto& x = args.x;
    const bool packs = args.table.cosine.extent(1) % width == 0 &&
                       cuda::takes_packs<moved>(x.data(), x.extent(0) > 1 ? x.stride(0) : 0) &&
                       cuda::takes_packs<moved>(x.data(), x.extent(1) > 1 ? x.stride(1) : 0) &&
                       cuda::takes_packs<width>(args.table.cosine) &&
                       cuda::takes_packs<width>(args.table.sine);
    if (packs)
      apply<width>(ctx, args);
    else
      apply<1>(ctx, args);
  }

 private:
  template <int Width, class Ctx>
  static void apply(Ctx& ctx, const typename op_type::apply_args& args) {
    const index_t tokens = args.x.extent(0), heads = args.x.extent(1),
                  packs = args.table.cosine.extent(1) / Width;
    if (heads == 0 || packs == 0) return;
    const auto across = static_cast<unsigned>(std::min<index_t>(packs, 256));
    const auto down = static_cast<unsigned>(std::min<index_t>(heads, 256 / across));
    const unsigned deep = std::min(256 / (across * down), 64u);
    const cuda::misuse no_such_position =
        cuda::misuse_of(ctx, "decoupled_rope.apply: token {} has position {}, the table has {} positions");
    cuda::launch(args.name, ctx.stream,
                 {.grid = {static_cast<unsigned>(ceil_div(tokens, deep)),
                           static_cast<unsigned>(ceil_div(heads, down * cuda::detail::rope_heads<Layout>))},
                  .block = {across, down, deep}},
                 cuda::detail::rope_apply_kernel<P, Layout, Width>, args, no_such_position);
  }
};

}  // namespace dsv3::inline DSV3_ABI
