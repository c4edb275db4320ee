// SPDX-License-Identifier: MIT
// Activations to fewer bytes and back on the GPU.
#pragma once

#include <dsv3/cuda/quant/row_tiles.cuh>
#include <dsv3/op/quant/stored_rows.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

/// Rows of bf16 as bytes, which may start anywhere.
template <class Byte>
struct bf16_bytes {
  using numbers = eight<bf16>;
  view<Byte, 2> bytes;
  bool packs;

  explicit bf16_bytes(const view<Byte, 2>& rows) : bytes(rows), packs(takes_packs<16>(rows)) {}

  template <int Count>
  __device__ __forceinline__ void load(index_t row, index_t end, index_t column, index_t live,
                                       numbers (&to)[Count]) const {
    const Byte* from = bytes.data() + row * bytes.stride(0) + 2 * column;
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      const auto words = load_bytes<4>(from + i * bytes.stride(0), row + i < end ? 2 * live : 0, packs);
      to[i] = {{words[0], words[1], words[2], words[3]}};
    }
  }
  template <class Numbers>
  __device__ __forceinline__ void put(index_t row, index_t column, index_t live, const Numbers& x) const {
    if (live > 0) store_bytes(&bytes(row, 2 * column), bf16_words(x), 2 * live, packs);
  }
};

/// Rows of packed E5M6 with their scales; a lane's eight codes are twelve bytes.
template <class Byte>
struct e5m6_rows {
  using element = e5m6;
  static constexpr int tiles_across = 1;
  using numbers = eight<float>;
  narrow_rows_tensors<Byte> rows;
  bool packs;

  explicit e5m6_rows(const narrow_rows_tensors<Byte>& y) : rows(y), packs(takes_packs<4>(y.bytes)) {}

  template <int Count>
  __device__ __forceinline__ void load(index_t row, index_t end, index_t column, index_t live,
                                       numbers (&to)[Count]) const {
    const Byte* from = rows.bytes.data() + row * rows.bytes.stride(0) + column / 8 * 12;
    e5m6x8 codes[Count];
    float scales[Count];
#pragma unroll
    for (int i = 0; i < Count; ++i)
#pragma unroll
      for (int w = 0; w < 3; ++w)
        codes[i].words[w] = load_bytes<1>(from + i * rows.bytes.stride(0) + 4 * w,
                                          row + i < end && live > 0 ? 4 : 0, packs)[0];
#pragma unroll
    for (int i = 0; i < Count; ++i)
      scales[i] = row + i < end && live > 0 ? rows.scales(row + i, column / 128) : 0.0f;
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      unpack_e5m6(codes[i], to[i].value);
#pragma unroll
      for (int j = 0; j < lane_numbers; ++j) to[i].value[j] = __fmul_rn(to[i].value[j], scales[i]);
    }
  }
  // Codes that a row has no numbers for are those of zero: what `load` of the numbers gives there.
  __device__ __forceinline__ void put(index_t row, index_t column, index_t live,
                                      const float (&x)[lane_numbers]) const {
    if (live <= 0) return;
    const e5m6x8 codes = pack_e5m6(x);
    Byte* to = &rows.bytes(row, column / 8 * 12);
#pragma unroll
    for (int w = 0; w < 3; ++w) store_bytes<1>(to + 4 * w, {codes.words[w]}, 4, packs);
  }
  __device__ __forceinline__ void put_scale(index_t row, index_t tile, float scale) const {
    rows.scales(row, tile) = scale;
  }
};

}  // namespace cuda::detail

template <class P>
struct implementation<op::stored_rows<P>, backend::cuda> {
  using store_args = typename op::stored_rows<P>::store_args;
  using load_args = typename op::stored_rows<P>::load_args;
  using number = activation<P>;

  template <class Ctx>
  static void run(Ctx& ctx, const store_args& args) {
    const auto narrow = [&](const auto& y) {
      cuda::narrow_rows(args.name, ctx.stream, cuda::detail::plain_rows<number>(args.x), y, args.groups,
                        args.x.extent(0), args.x.extent(1), args.scales);
    };
    switch (args.y.config.format) {
      case stored_format::bf16:
        return convert(ctx, args, cuda::wide_rows<number>(args.x),
                       cuda::detail::bf16_bytes<std::uint8_t>(args.y.bytes), args.x);
      case stored_format::e4m3: {
        const auto tiles = as_tiles(args.y);
        return narrow(cuda::code_rows<fp8_e4m3>(tiles.values, tiles.scales));
      }
      case stored_format::e5m6:
        return narrow(cuda::detail::e5m6_rows<std::uint8_t>(args.y));
    }
  }

  template <class Ctx>
  static void run(Ctx& ctx, const load_args& args) {
    const cuda::number_rows<number> y(args.y);
    switch (args.x.config.format) {
      case stored_format::bf16:
        return convert(ctx, args, cuda::detail::bf16_bytes<const std::uint8_t>(args.x.bytes), y, args.y);
      case stored_format::e4m3:
        return convert(ctx, args, cuda::stored_tiles<fp8_e4m3, row_tile>(as_tiles(args.x)), y, args.y);
      case stored_format::e5m6:
        return convert(ctx, args, cuda::detail::e5m6_rows<const std::uint8_t>(args.x), y, args.y);
    }
  }

 private:
  template <class Ctx, class Args, class Source, class Target, class Wide>
  static void convert(Ctx& ctx, const Args& args, const Source& source, const Target& target,
                      const Wide& wide) {
    cuda::convert_rows(args.name, ctx.stream, source, target, args.groups, wide.extent(0), wide.extent(1));
  }
};

}  // namespace dsv3::inline DSV3_ABI
