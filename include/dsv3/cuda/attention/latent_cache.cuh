// SPDX-License-Identifier: MIT
// Rows into the latent cache and back out on the GPU: a warp for each token.
#pragma once

#include <dsv3/cuda/attention/cache_rows.cuh>
#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/number/traits.hpp>
#include <dsv3/number/scale.hpp>
#include <dsv3/op/attention/latent_cache.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// to = from, `count` elements by the lanes of a warp, a multiple of Width.
template <int Width, class Element>
__device__ __forceinline__ void copy_by_lanes(const Element* __restrict__ from, index_t count,
                                              Element* __restrict__ to) {
  constexpr int ahead = 4;  // loads under way before the first store
  const index_t lane = threadIdx.x % 32;
  for (index_t first = 0; first < count; first += 32 * Width * ahead) {
    pack<Element, Width> held[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (const index_t at = first + (32 * i + lane) * Width; at < count)
        held[i] = load_pack<Width>(from + at);
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (const index_t at = first + (32 * i + lane) * Width; at < count) store_pack(to + at, held[i]);
  }
}

/// Bytes of a number at any address, where Aligned at a multiple of its size.
template <bool Aligned, class T>
__device__ __forceinline__ void put_bytes(std::uint8_t* to, T value) {
  if constexpr (Aligned)
    *reinterpret_cast<T*>(to) = value;
  else
    for (unsigned i = 0; i < sizeof(T); ++i) to[i] = static_cast<std::uint8_t>(value >> 8 * i);
}
template <bool Aligned, class T>
__device__ __forceinline__ T get_bytes(const std::uint8_t* from) {
  if constexpr (Aligned) {
    return *reinterpret_cast<const T*>(from);
  } else {
    T value = 0;
    for (unsigned i = 0; i < sizeof(T); ++i) value = static_cast<T>(value | static_cast<T>(from[i]) << 8 * i);
    return value;
  }
}

template <int Width, class Activation>
__device__ __forceinline__ void write_row(cache_row::plain, const Activation* c, index_t rank,
                                          const Activation* k_rope, index_t rope, Activation* row) {
  copy_by_lanes<Width>(c, rank, row);
  copy_by_lanes<Width>(k_rope, rope, row + rank);
}
template <int Width, class Activation>
__device__ __forceinline__ void read_row(cache_row::plain, const Activation* row, index_t rank, index_t rope,
                                         Activation* c, Activation* k_rope) {
  copy_by_lanes<Width>(row, rank, c);
  copy_by_lanes<Width>(row + rank, rope, k_rope);
}

/// A tile of 128 columns at a time, four to a lane: neighbours where Width is 4, else 32 apart.
template <int Width, class Activation>
__device__ __forceinline__ void write_row(cache_row::fp8, const Activation* __restrict__ c, index_t rank,
                                          const Activation* __restrict__ k_rope, index_t rope,
                                          std::uint8_t* __restrict__ row) {
  constexpr bool packs = Width == 4;
  const index_t lane = threadIdx.x % 32;
  for (index_t first = 0; first < rank; first += 128) {
    float x[4] = {};
    if constexpr (packs) {
      if (const index_t at = first + 4 * lane; at < rank) {
        const auto held = load_pack<4>(c + at);
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = static_cast<float>(held[i]);
      }
    } else {
      for (int i = 0; i < 4; ++i)
        if (const index_t at = first + 32 * i + lane; at < rank) x[i] = static_cast<float>(c[at]);
    }
    unsigned largest = 0;  // bits without the sign are ordered as magnitudes are; a NaN does not count
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned bits = __float_as_uint(x[i]) & 0x7FFFFFFFu;
      largest = max(largest, bits > 0x7F800000u ? 0u : bits);
    }
    largest = __reduce_max_sync(all_lanes, largest);
    constexpr float most = static_cast<float>(number_traits<fp8_e4m3>::max);
    const float scale = tile_scale(__uint_as_float(largest), most, scale_kind::power_of_two);
    std::uint32_t codes = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) codes |= std::uint32_t{fp8_e4m3(__fdiv_rn(x[i], scale)).bits} << 8 * i;
    if constexpr (packs) {
      if (first + 4 * lane < rank) put_bytes<true>(row + first + 4 * lane, codes);
    } else {
      for (int i = 0; i < 4; ++i)
        if (const index_t at = first + 32 * i + lane; at < rank)
          row[at] = static_cast<std::uint8_t>(codes >> 8 * i);
    }
    if (lane == 0)
      put_bytes<packs>(row + cache_row::fp8::scales_at(rank) + first / 32, __float_as_uint(scale));
  }
  for (index_t i = lane; i < rope; i += 32)
    put_bytes<packs>(row + cache_row::fp8::rope_at(rank) + 2 * i, bf16(k_rope[i]).bits);
}
template <int Width, class Activation>
__device__ __forceinline__ void read_row(cache_row::fp8, const std::uint8_t* __restrict__ row, index_t rank,
                                         index_t rope, Activation* __restrict__ c,
                                         Activation* __restrict__ k_rope) {
  constexpr bool packs = Width == 4;
  const index_t lane = threadIdx.x % 32;
  for (index_t first = 0; first < rank; first += 128) {
    const float scale =
        __uint_as_float(get_bytes<packs, std::uint32_t>(row + cache_row::fp8::scales_at(rank) + first / 32));
    const auto value = [&](std::uint32_t code) {
      return Activation(float(fp8_e4m3::from_bits(static_cast<std::uint8_t>(code))) * scale);
    };
    if constexpr (packs) {
      if (const index_t at = first + 4 * lane; at < rank) {
        const auto codes = get_bytes<true, std::uint32_t>(row + at);
        pack<Activation, 4> held;
#pragma unroll
        for (int i = 0; i < 4; ++i) held[i] = value(codes >> 8 * i & 255u);
        store_pack(c + at, held);
      }
    } else {
      for (int i = 0; i < 4; ++i)
        if (const index_t at = first + 32 * i + lane; at < rank) c[at] = value(row[at]);
    }
  }
  for (index_t i = lane; i < rope; i += 32) {
    const auto bits = get_bytes<packs, std::uint16_t>(row + cache_row::fp8::rope_at(rank) + 2 * i);
    k_rope[i] = Activation(float(bf16::from_bits(bits)));
  }
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
  for (index_t t = warp; t < tokens.tokens(); t += warps)
    if (const index_t b = sequence_of(tokens, t); b >= 0) move(b, t);
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
    launch(ctx, args, cuda::detail::append_rows_kernel<width, P, Row>,
           cuda::detail::append_rows_kernel<1, P, Row>);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const gather_args& args) {
    launch(ctx, args, cuda::detail::gather_rows_kernel<width, P, Row>,
           cuda::detail::gather_rows_kernel<1, P, Row>);
  }

 private:
  static constexpr bool plain = std::is_same_v<Row, cache_row::plain>;
  static constexpr int width = plain ? cuda::widest<activation<P>> : 4;

  // Whether every row, and what lies behind c in it, can be moved in packs.
  template <class Args>
  static bool takes_packs(const Args& args) {
    const auto& pages = args.cache.pages;
    return args.c.extent(1) % width == 0 && args.k_rope.extent(1) % width == 0 &&
           cuda::takes_packs<width>(args.c.data(), args.c.stride(0)) &&
           cuda::takes_packs<width>(args.k_rope.data(), args.k_rope.stride(0)) &&
           cuda::takes_packs<width>(pages.data(), pages.stride(0)) && pages.stride(1) % width == 0;
  }

  template <class Ctx, class Args>
  static void launch(Ctx& ctx, const Args& args, void (*packs)(Args, cuda::detail::latent_cache_misuse),
                     void (*singles)(Args, cuda::detail::latent_cache_misuse)) {
    const cuda::detail::latent_cache_misuse wrong{
        cuda::sequence_misuse_of(ctx, Args::name), cuda::cache_misuse_of(ctx, Args::name),
        cuda::misuse_of(ctx, "sequence {} has {} tokens, its part of the cache has {} rows", Args::name)};
    const index_t warps = std::max(args.tokens.tokens(), args.tokens.sequences());
    cuda::launch(Args::name, ctx.stream, {.grid = cuda::grid_for(warps, 8)},
                 takes_packs(args) ? packs : singles, args, wrong);
  }
};

}  // namespace dsv3::inline DSV3_ABI
