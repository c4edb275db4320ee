// SPDX-License-Identifier: MIT
// Picking rows on the GPU.
#pragma once

#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/memory/segments.cuh>
#include <dsv3/op/memory/gather_rows.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// What number -1 stands for.
enum class minus_one { no_row, zeros };

/// y[i] = x[rows[i]]. A row that x does not have is reported, and its place in y is left as it was.
template <class From, class To, minus_one Meaning>
struct picked {
  static constexpr int packs = 4;
  static constexpr std::int32_t lowest = Meaning == minus_one::zeros ? -1 : 0;
  view<const From, 2> x;
  view<const std::int32_t, 1> rows;
  view<To, 2> y;
  misuse no_such_row;

  __device__ bool takes(index_t row, index_t column) const {
    const std::int32_t number = rows(row);
    if (number >= lowest && number < x.extent(0)) return true;
    if (column == 0) no_such_row.report(row, number, x.extent(0));
    return false;
  }

  template <int Width>
  __device__ kept_pack<From, Width> load(index_t row, index_t column) const {
    const std::int32_t number = rows(row);
    if (number >= 0) return kept_pack<From, Width>(x[number].data() + column);
    pack<From, Width> zeros;
#pragma unroll
    for (int i = 0; i < Width; ++i) zeros[i] = From(0.0f);
    return kept_pack<From, Width>(zeros);
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

template <class From, class To, minus_one Meaning>
void launch_picked(const char* name, cudaStream_t stream, const picked<From, To, Meaning>& map) {
  constexpr int width = sizeof(From) > sizeof(To) ? widest<From> : widest<To>;
  if (takes_packs<width>(map.x) && takes_packs<width>(map.y))
    launch_segments<width>(name, stream, map, map.y.extent(0), map.y.extent(1));
  else
    launch_segments<1>(name, stream, map, map.y.extent(0), map.y.extent(1));
}

}  // namespace cuda::detail

template <class T>
struct implementation<op::gather_rows<T>, backend::cuda> {
  using forward_args = typename op::gather_rows<T>::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const cuda::misuse no_such_row =
        cuda::misuse_of(ctx, "gather_rows: rows[{}] is {}, expected a row below {}");
    cuda::detail::launch_picked(
        forward_args::name, ctx.stream,
        cuda::detail::picked<T, T, cuda::detail::minus_one::no_row>{args.x, args.rows, args.y, no_such_row});
  }
};

}  // namespace dsv3::inline DSV3_ABI
