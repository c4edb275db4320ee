// SPDX-License-Identifier: MIT
// Products of floats in planes of bf16 on compute capability 9.0a: a warp asks the copy engine for the
// planes, two warpgroups multiply them by wgmma.
#pragma once

#include <dsv3/cuda/device/tma.cuh>
#include <dsv3/cuda/device/wgmma.cuh>
#include <dsv3/cuda/host/tensor_map.cuh>
#include <dsv3/cuda/routing/split_product.cuh>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cuda {

namespace detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// Tiles of 128 x 128 sums, 64 rows for each of two warpgroups. A stage is 64 deep and holds each plane as
/// two panels of 64 x 64. Blocks come in clusters of two where the tiles are even: they share the tile of the
/// factor with more planes, of which each fetches half for both.
template <int PlanesA, int PlanesB>
struct alignas(1024) split_room {
  static_assert(PlanesA == 1 || PlanesB == 1);
  static constexpr int extent = 128, depth = 64, threads = 384;
  static constexpr int panel_bytes = 64 * 64 * 2, plane_bytes = 2 * panel_bytes;
  static constexpr int stage_bytes = (PlanesA + PlanesB) * plane_bytes;
  static constexpr int stages = std::min(4, 200 * 1024 / stage_bytes);
  static constexpr bool shares_a = PlanesA > PlanesB;
  // The matrix units cut off what falls below their sums' last bits: after so many stages those sums are
  // added to sums that round.
  static constexpr int stages_per_sum = 2;

  unsigned char operands[stages][stage_bytes];
  mbarrier full[stages], empty[stages];
};

// ---- kernels ----------------------------------------------------------------------------------------------

#if DSV3_SM90A

/// One thread: brings the planes of a tile, depth begin .. end.
template <class Room, int PlanesA, contiguous AlongA, int PlanesB, contiguous AlongB>
__device__ __forceinline__ void bring_planes(Room& room, const CUtensorMap& a_map, const CUtensorMap& b_map,
                                             int first_m, int first_n, int begin, int end) {
  const int blocks = static_cast<int>(cluster_blocks()), rank = static_cast<int>(cluster_rank());
  unsigned stage = 0, parity = 0;
  for (int d = begin; d < end; d += Room::depth) {
    room.empty[stage].wait(parity ^ 1);
    mbarrier& full = room.full[stage];
    full.arrive_and_expect(Room::stage_bytes);
    const auto bring = [&]<contiguous Along>(unsigned char* to, const CUtensorMap& map, int first, int plane,
                                             bool shared) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first + 64 * half;
        const int c0 = Along == contiguous::depth ? d : row, c1 = Along == contiguous::depth ? row : d;
        if (!shared || blocks == 1)
          load_box(to + half * Room::panel_bytes, map, full, c0, c1, plane);
        else if (half == rank)
          load_box_to_all(to + half * Room::panel_bytes, map, full, 3, c0, c1, plane);
      }
    };
    unsigned char* to = room.operands[stage];
#pragma unroll
    for (int p = 0; p < PlanesA; ++p, to += Room::plane_bytes)
      bring.template operator()<AlongA>(to, a_map, first_m, p, Room::shares_a);
#pragma unroll
    for (int q = 0; q < PlanesB; ++q, to += Room::plane_bytes)
      bring.template operator()<AlongB>(to, b_map, first_n, q, !Room::shares_a);
    if (++stage == Room::stages) stage = 0, parity ^= 1;
  }
}

/// A warpgroup: 64 x 128 sums over so many stages.
template <class Room, int PlanesA, contiguous AlongA, int PlanesB, contiguous AlongB>
__device__ __forceinline__ void multiply_planes(Room& room, int side, int steps, float (&total)[64]) {
  constexpr auto major_of = [](contiguous along) {
    return along == contiguous::depth ? major::k : major::mn;
  };
  constexpr major a_major = major_of(AlongA), b_major = major_of(AlongB);
  constexpr unsigned a_step = a_major == major::k ? 32 : 2048, b_step = b_major == major::k ? 32 : 2048;
  const int lane = static_cast<int>(threadIdx.x) % 32, blocks = static_cast<int>(cluster_blocks());
  const auto release = [&](unsigned stage) {
    if (lane < blocks) room.empty[stage].arrive_at(static_cast<unsigned>(lane));
  };
  float sums[64];
  pin(sums);
  unsigned stage = 0, parity = 0, last = 0;
  bool fresh = true, held = false;
  for (int step = 0; step < steps; ++step) {
    room.full[stage].wait(parity);
    const std::uint32_t a = shared_address(room.operands[stage]) + side * Room::panel_bytes;
    const std::uint32_t b = shared_address(room.operands[stage]) + PlanesA * Room::plane_bytes;
    fence_sums();
#pragma unroll
    for (unsigned k = 0; k < 4; ++k)
#pragma unroll
      for (int q = PlanesB - 1; q >= 0; --q)  // the small numbers first
#pragma unroll
        for (int p = PlanesA - 1; p >= 0; --p)
          multiply_bf16<128, a_major, b_major>(
              sums, operand_after(operand_at<a_major>(a + p * Room::plane_bytes), k * a_step),
              operand_after(operand_at<b_major>(b + q * Room::plane_bytes, Room::panel_bytes), k * b_step),
              !fresh || k > 0 || q < PlanesB - 1 || p < PlanesA - 1);
    commit_products();
    fresh = false;
    if (held) {
      wait_products<1>();
      release(last);
    }
    held = true, last = stage;
    if (step % Room::stages_per_sum == Room::stages_per_sum - 1 || step == steps - 1) {
      wait_products<0>();
      pin(sums);
      release(last);
#pragma unroll
      for (int i = 0; i < 64; ++i) total[i] += sums[i];
      pin(sums);
      fresh = true, held = false;
    }
    if (++stage == Room::stages) stage = 0, parity ^= 1;
  }
}

#endif

/// result[i, j] = Σ_d a[i, d] · b[j, d]. blockIdx.y is the part of the depth.
template <int PlanesA, contiguous AlongA, int PlanesB, contiguous AlongB, class Out>
__global__ void __launch_bounds__(384, 1)
    split_wgmma_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map,
                       product_extents e, index_t part_depth, product_result<Out> out) {
#if DSV3_SM90A
  using room_type = split_room<PlanesA, PlanesB>;
  room_type& room = *reinterpret_cast<room_type*>(dynamic_shared());
  const unsigned warp = __shfl_sync(all_lanes, threadIdx.x / 32, 0), blocks = cluster_blocks();
  const int begin = static_cast<int>(blockIdx.y * part_depth);
  const int end = static_cast<int>(min(begin + part_depth, e.depth));
  const int steps = end > begin ? (end - begin + room_type::depth - 1) / room_type::depth : 0;
  // A cluster's tiles share one factor; clusters walk first along that one, so that the other is met in the
  // cache.
  const auto shared_tiles =
      static_cast<unsigned>(((room_type::shares_a ? e.m : e.n) + room_type::extent - 1) / room_type::extent);
  const unsigned cluster = blockIdx.x / blocks;
  const auto shared_first = static_cast<int>(cluster % shared_tiles * room_type::extent);
  const auto own_first =
      static_cast<int>((cluster / shared_tiles * blocks + cluster_rank()) * room_type::extent);
  const int first_m = room_type::shares_a ? shared_first : own_first;
  const int first_n = room_type::shares_a ? own_first : shared_first;
  if (threadIdx.x == 0) {
    if (shared_address(&room) % 1024 != 0) __trap();
    prefetch_map(a_map), prefetch_map(b_map);
    for (int s = 0; s < room_type::stages; ++s) room.full[s].init(1), room.empty[s].init(8 * blocks);
    publish_barriers();
  }
  __syncwarp();
  cluster_arrive(), cluster_wait();
  if (warp < 4) {
    give_registers<24>();
    if (warp == 0 && elected())
      bring_planes<room_type, PlanesA, AlongA, PlanesB, AlongB>(room, a_map, b_map, first_m, first_n, begin,
                                                                end);
    __syncwarp();
  } else {
    take_registers<240>();
    const int side = static_cast<int>(warp) / 4 - 1, thread = static_cast<int>(threadIdx.x) % 128;
    float total[64] = {};
    multiply_planes<room_type, PlanesA, AlongA, PlanesB, AlongB>(room, side, steps, total);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const index_t m = first_m + side * 64 + sum_row(thread, half * 2);
      Out* to = out.data + blockIdx.y * out.part_stride + m * out.stride;
      if (m < e.m)
#pragma unroll
        for (int j = 0; j < 16; ++j) {
          const index_t n = first_n + sum_column(thread, j * 4);
          float first = total[j * 4 + half * 2], second = total[j * 4 + half * 2 + 1];
          if (n + 1 < e.n && out.pairs) {
            if (out.into == store::add) {
              const auto former = load_pack<2>(static_cast<const Out*>(to + n));
              first += float(former[0]), second += float(former[1]);
            }
            store_pack(to + n, pack<Out, 2>{Out(first), Out(second)});
          } else {
            if (n < e.n) to[n] = Out(out.into == store::add ? float(to[n]) + first : first);
            if (n + 1 < e.n) to[n + 1] = Out(out.into == store::add ? float(to[n + 1]) + second : second);
          }
        }
    }
  }
  cluster_arrive(), cluster_wait();  // nobody leaves while the other may still write to it
#else
  __trap();
#endif
}

}  // namespace detail

// ---- launch -----------------------------------------------------------------------------------------------

/// A product of planes as split_product's, of which one factor has one plane. The copy engine must be able to
/// walk both.
template <int PlanesA, contiguous AlongA, int PlanesB, contiguous AlongB>
struct split_product_sm90 {
  /// Into how many parts to cut the depth, so that a large GPU is filled; depends on nothing but the extents.
  static index_t parts(const product_extents& e) {
    return std::clamp<index_t>(132 / std::max<index_t>(tiles(e.m) * tiles(e.n), 1), 1,
                               std::max<index_t>(e.depth / 256, 1));
  }

  template <class Out>
  static void run(const char* name, cudaStream_t stream, const product_planes& a, const product_planes& b,
                  const product_extents& e, index_t parts, const product_result<Out>& out) {
    const unsigned blocks = tiles(room::shares_a ? e.n : e.m) % 2 == 0 ? 2 : 1;
    launch(name, stream,
           {.grid = {static_cast<unsigned>(tiles(e.m) * tiles(e.n)), static_cast<unsigned>(parts)},
            .block = room::threads,
            .shared_bytes = sizeof(room),
            .cluster = blocks},
           detail::split_wgmma_kernel<PlanesA, AlongA, PlanesB, AlongB, Out>,
           map_of<AlongA>(name, a, PlanesA, e.m, e.depth), map_of<AlongB>(name, b, PlanesB, e.n, e.depth), e,
           round_up(ceil_div(e.depth, parts), room::depth), out);
  }

 private:
  using room = detail::split_room<PlanesA, PlanesB>;
  static_assert(sizeof(room) <= 227 * 1024);

  static index_t tiles(index_t count) { return ceil_div(count, room::extent); }

  template <contiguous Along>
  static CUtensorMap map_of(const char* name, const product_planes& x, index_t planes, index_t rows,
                            index_t depth) {
    const index_t lines = Along == contiguous::depth ? rows : depth;
    const index_t length = Along == contiguous::depth ? depth : rows;
    const index_t apart = planes == 1 ? x.stride : x.plane_stride;
    return tensor_map(name, view<const bf16, 3>(x.data, {planes, lines, length}, {apart, x.stride, 1}),
                      {1, 64, 64}, box_swizzle::bytes_128);
  }
};

}  // namespace dsv3::inline DSV3_ABI::cuda
