// SPDX-License-Identifier: MIT
// Rows into the latent cache and back out on the GPU: a warp for each token.
#pragma once

#include <dsv3/cuda/attention/cache_rows.cuh>
#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/quant/numbers.cuh>
#include <dsv3/number/traits.hpp>
#include <dsv3/number/scale.hpp>
#include <dsv3/op/attention/latent_cache.hpp>

#include <algorithm>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// Moves `count` elements, a multiple of Width, from the addresses from(i) to to(i); by the lanes of a warp.
template <int Width, class From, class To>
__device__ __forceinline__ void move_by_lanes(index_t count, const From& from, const To& to) {
  using element = std::remove_pointer_t<decltype(to(0))>;
  constexpr int ahead = 4;  // loads under way before the first store
  const index_t lane = threadIdx.x % 32;
  for (index_t first = 0; first < count; first += 32 * Width * ahead) {
    pack<element, Width> held[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (const index_t at = first + (32 * i + lane) * Width; at < count)
        held[i] = load_pack<Width>(from(at));
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (const index_t at = first + (32 * i + lane) * Width; at < count) store_pack(to(at), held[i]);
  }
}

/// Bytes of a number at any address.
template <class T>
__device__ __forceinline__ void put_bytes(std::uint8_t* to, T value) {
  for (unsigned i = 0; i < sizeof(T); ++i) to[i] = static_cast<std::uint8_t>(value >> 8 * i);
}
template <class T>
__device__ __forceinline__ T get_bytes(const std::uint8_t* from) {
  T value = 0;
  for (unsigned i = 0; i < sizeof(T); ++i) value = static_cast<T>(value | static_cast<T>(from[i]) << 8 * i);
  return value;
}

template <int Width, class Activation>
__device__ __forceinline__ void write_row(cache_row::plain, const Activation* c, index_t rank,
                                          const Activation* k_rope, index_t rope, Activation* row) {
  move_by_lanes<Width>(
      rank + rope, [&](index_t i) { return i < rank ? c + i : k_rope + (i - rank); },
      [&](index_t i) { return row + i; });
}
template <int Width, class Activation>
__device__ __forceinline__ void read_row(cache_row::plain, const Activation* row, index_t rank, index_t rope,
                                         Activation* c, Activation* k_rope) {
  move_by_lanes<Width>(
      rank + rope, [&](index_t i) { return row + i; },
      [&](index_t i) { return i < rank ? c + i : k_rope + (i - rank); });
}

/// Numbers with indices of which the last lanes of a row may have none.
template <int Count>
struct some_numbers {
  float value[Count] = {};

  /// Of magnitudes: bits without the sign are ordered as they are; a NaN does not count.
  __device__ __forceinline__ unsigned largest() const {
    unsigned result = 0;
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      const unsigned bits = __float_as_uint(value[i]) & 0x7FFFFFFFu;
      result = max(result, bits > 0x7F800000u ? 0u : bits);
    }
    return result;
  }
  /// Divided by a power of two, whose reciprocal is exact.
  __device__ __forceinline__ void divide(float scale) {
    const float reciprocal = 1 / scale;
#pragma unroll
    for (int i = 0; i < Count; ++i) value[i] *= reciprocal;
  }
};
__device__ __forceinline__ float latent_scale(unsigned largest) {
  constexpr float most = static_cast<float>(number_traits<fp8_e4m3>::max);
  return tile_scale(__uint_as_float(largest), most, scale_kind::power_of_two);
}

/// Width neighbouring columns to a lane, a tile of 128 to 128 / Width lanes; k_rope in pairs. All rows at
/// multiples of Width bytes.
template <int Width, class Activation>
  requires(Width > 1)
__device__ __forceinline__ void write_row(cache_row::fp8, const Activation* __restrict__ c, index_t rank,
                                          const Activation* __restrict__ k_rope, index_t rope,
                                          std::uint8_t* __restrict__ row) {
  constexpr index_t lanes = 128 / Width;
  const index_t lane = threadIdx.x % 32;
  const auto rope_pair = [&](index_t i) {
    const auto pair = load_pack<2>(k_rope + i);
    return std::uint32_t{bf16(pair[0]).bits} | std::uint32_t{bf16(pair[1]).bits} << 16;
  };
  const std::uint32_t first_pair = 2 * lane < rope ? rope_pair(2 * lane) : 0;  // on its way with the columns
  for (index_t at = Width * lane; at - Width * lane < rank; at += 32 * Width) {
    some_numbers<Width> x;
    if (at < rank) {
      const auto held = load_pack<Width>(c + at);
#pragma unroll
      for (int i = 0; i < Width; ++i) x.value[i] = static_cast<float>(held[i]);
    }
    const float scale = latent_scale(max_lanes<lanes>(x.largest()));
    x.divide(scale);
    if (at < rank) store_pack(reinterpret_cast<std::uint32_t*>(row + at), codes_of<fp8_e4m3>(x.value));
    if (lane % lanes == 0 && at < rank)
      *reinterpret_cast<float*>(row + cache_row::fp8::scales_at(rank) + at / 32) = scale;
  }
  for (index_t i = 2 * lane; i < rope; i += 64)
    *reinterpret_cast<std::uint32_t*>(row + cache_row::fp8::rope_at(rank) + 2 * i) =
        i < 64 ? first_pair : rope_pair(i);
}
template <int Width, class Activation>
  requires(Width > 1)
__device__ __forceinline__ void read_row(cache_row::fp8, const std::uint8_t* __restrict__ row, index_t rank,
                                         index_t rope, Activation* __restrict__ c,
                                         Activation* __restrict__ k_rope) {
  const index_t lane = threadIdx.x % 32;
  const auto rope_pair = [&](index_t i) {
    return *reinterpret_cast<const std::uint32_t*>(row + cache_row::fp8::rope_at(rank) + 2 * i);
  };
  const std::uint32_t first_pair = 2 * lane < rope ? rope_pair(2 * lane) : 0;
  for (index_t at = Width * lane; at < rank; at += 32 * Width) {
    const auto codes = load_pack<Width / 4>(reinterpret_cast<const std::uint32_t*>(row + at));
    const float scale = *reinterpret_cast<const float*>(row + cache_row::fp8::scales_at(rank) + at / 128 * 4);
    pack<Activation, Width> held;
#pragma unroll
    for (int i = 0; i < Width; i += 2) {
      float value[2];
      values_of_two<fp8_e4m3>(codes[i / 4] >> 8 * (i % 4), value[0], value[1]);
      held[i] = Activation(value[0] * scale), held[i + 1] = Activation(value[1] * scale);
    }
    store_pack(c + at, held);
  }
  for (index_t i = 2 * lane; i < rope; i += 64) {
    const std::uint32_t bits = i < 64 ? first_pair : rope_pair(i);
    const auto value = [](std::uint32_t x) {
      return Activation(float(bf16::from_bits(static_cast<std::uint16_t>(x))));
    };
    store_pack(k_rope + i, pack<Activation, 2>{value(bits), value(bits >> 16)});
  }
}

/// Rows anywhere: a tile of 128 columns at a time, four to a lane, 32 apart.
template <int Width, class Activation>
  requires(Width == 1)
__device__ __forceinline__ void write_row(cache_row::fp8, const Activation* __restrict__ c, index_t rank,
                                          const Activation* __restrict__ k_rope, index_t rope,
                                          std::uint8_t* __restrict__ row) {
  const index_t lane = threadIdx.x % 32;
  for (index_t first = 0; first < rank; first += 128) {
    some_numbers<4> x;
    for (int i = 0; i < 4; ++i)
      if (const index_t at = first + 32 * i + lane; at < rank) x.value[i] = static_cast<float>(c[at]);
    const float scale = latent_scale(__reduce_max_sync(all_lanes, x.largest()));
    x.divide(scale);
    for (int i = 0; i < 4; ++i)
      if (const index_t at = first + 32 * i + lane; at < rank) row[at] = fp8_e4m3(x.value[i]).bits;
    if (lane == 0) put_bytes(row + cache_row::fp8::scales_at(rank) + first / 32, __float_as_uint(scale));
  }
  for (index_t i = lane; i < rope; i += 32)
    put_bytes(row + cache_row::fp8::rope_at(rank) + 2 * i, bf16(k_rope[i]).bits);
}
template <int Width, class Activation>
  requires(Width == 1)
__device__ __forceinline__ void read_row(cache_row::fp8, const std::uint8_t* __restrict__ row, index_t rank,
                                         index_t rope, Activation* __restrict__ c,
                                         Activation* __restrict__ k_rope) {
  const index_t lane = threadIdx.x % 32;
  for (index_t at = lane; at < rank; at += 32) {
    const auto scale = get_bytes<std::uint32_t>(row + cache_row::fp8::scales_at(rank) + at / 128 * 4);
    c[at] = Activation(float(fp8_e4m3::from_bits(row[at])) * __uint_as_float(scale));
  }
  for (index_t i = lane; i < rope; i += 32)
    k_rope[i] = Activation(
        float(bf16::from_bits(get_bytes<std::uint16_t>(row + cache_row::fp8::rope_at(rank) + 2 * i))));
}

/// The sentences about what both directions read.
struct latent_cache_misuse {
  sequence_misuse tokens;
  cache_misuse cache;
  misuse room;
};

/// Calls move(sequence, its tokens, token) once for each token of a sequence, by a warp; warps that have a
/// sequence's number look after its numbers first.
template <class Cache, class Move>
__device__ __forceinline__ void each_token(const packed_sequences& tokens, const Cache& cache,
                                           const latent_cache_misuse& wrong, const Move& move) {
  const index_t warps = static_cast<index_t>(gridDim.x) * (blockDim.x / 32);
  const index_t warp = static_cast<index_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (warp == 0) offsets_hold(tokens, wrong.tokens);
  for (index_t b = warp; b < tokens.sequences(); b += warps) {
    if (threadIdx.x % 32 == 0) {
      const index_t count = tokens.offsets(b + 1) - tokens.offsets(b), rows = cache.lengths(b);
      if (count > rows && rows >= 0) wrong.room.report(b, count, rows);
    }
    check_cache(cache, b, wrong.cache);
  }
  // Neighbours are mostly of one sequence, which is then looked for once.
  const index_range mine = split_range(tokens.tokens(), warp, warps);
  index_t b = -1, end = 0;
  for (index_t t = mine.begin; t < mine.end; ++t) {
    if (t >= end) b = sequence_of(tokens, t), end = b >= 0 ? index_t{tokens.offsets(b + 1)} : 0;
    if (b >= 0) move(b, t);
  }
}

template <int Width, class P, class Row>
__global__ void __launch_bounds__(256)
    append_rows_kernel(typename op::latent_cache<P, Row>::append_args args, latent_cache_misuse wrong) {
  each_token(args.tokens, args.cache, wrong, [&](index_t b, index_t t) {
    const index_t j = length_of(args.cache, b) - (args.tokens.offsets(b + 1) - t);
    if (auto* row = row_of(args.cache, b, j))
      write_row<Width>(Row{}, args.c[t].data(), args.c.extent(1), args.k_rope[t].data(),
                       args.k_rope.extent(1), row);
  });
}

template <int Width, class P, class Row>
__global__ void __launch_bounds__(256)
    gather_rows_kernel(typename op::latent_cache<P, Row>::gather_args args, latent_cache_misuse wrong) {
  each_token(args.tokens, args.cache, wrong, [&](index_t b, index_t t) {
    if (const auto* row = row_of(args.cache, b, t - args.tokens.offsets(b)))
      read_row<Width>(Row{}, row, args.c.extent(1), args.k_rope.extent(1), args.c[t].data(),
                      args.k_rope[t].data());
  });
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P, class Row>
struct implementation<op::latent_cache<P, Row>, backend::cuda> {
  using append_args = typename op::latent_cache<P, Row>::append_args;
  using gather_args = typename op::latent_cache<P, Row>::gather_args;

  template <class Ctx>
  static void run(Ctx& ctx, const append_args& args) {
    launch(ctx, args, [](auto width) { return cuda::detail::append_rows_kernel<width.value, P, Row>; });
  }
  template <class Ctx>
  static void run(Ctx& ctx, const gather_args& args) {
    launch(ctx, args, [](auto width) { return cuda::detail::gather_rows_kernel<width.value, P, Row>; });
  }

 private:
  static constexpr bool plain = std::is_same_v<Row, cache_row::plain>;
  static constexpr int wide = (plain ? 16 : 32) / static_cast<int>(sizeof(activation<P>));
  static constexpr int narrow = plain ? 1 : 4;  // rows of 8 bits are often at multiples of that alone

  // Whether every row, and what lies behind c in it, can be moved in packs.
  template <int Width, class Args>
  static bool takes_packs(const Args& args) {
    constexpr int of_c = std::min(Width, cuda::widest<activation<P>>), of_rope = plain ? Width : 2;
    const auto& pages = args.cache.pages;
    return args.c.extent(1) % Width == 0 && args.k_rope.extent(1) % of_rope == 0 &&
           cuda::takes_packs<of_c>(args.c.data(), args.c.stride(0)) &&
           cuda::takes_packs<of_rope>(args.k_rope.data(), args.k_rope.stride(0)) &&
           cuda::takes_packs<Width>(pages.data(), pages.stride(0)) && pages.stride(1) % Width == 0;
  }

  template <class Ctx, class Args, class Kernel>
  static void launch(Ctx& ctx, const Args& args, const Kernel& kernel) {
    const cuda::detail::latent_cache_misuse wrong{
        cuda::sequence_misuse_of(ctx, Args::name), cuda::cache_misuse_of(ctx, Args::name),
        cuda::misuse_of(ctx, "sequence {} has {} tokens, its part of the cache has {} rows", Args::name)};
    const index_t warps = std::max(args.tokens.tokens(), args.tokens.sequences());
    const cuda::launch_shape shape{.grid = cuda::grid_for(warps, 8)};
    if (takes_packs<wide>(args))
      cuda::launch(Args::name, ctx.stream, shape, kernel(std::integral_constant<int, wide>{}), args, wrong);
    else if (narrow > 1 && takes_packs<narrow>(args))
      cuda::launch(Args::name, ctx.stream, shape, kernel(std::integral_constant<int, narrow>{}), args, wrong);
    else
      cuda::launch(Args::name, ctx.stream, shape, kernel(std::integral_constant<int, 1>{}), args, wrong);
  }
};

}  // namespace dsv3::inline DSV3_ABI
