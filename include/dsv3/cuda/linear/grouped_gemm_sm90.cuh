// SPDX-License-Identifier: MIT
// The experts' products in bf16 on compute capability 9.0a: one block per multiprocessor walks over the tiles
// of all experts, a warp of it asks the copy engine for operands, two warpgroups multiply them by wgmma.
#pragma once

#include <dsv3/cuda/device/mma.cuh>
#include <dsv3/cuda/device/tma.cuh>
#include <dsv3/cuda/device/wgmma.cuh>
#include <dsv3/cuda/host/tensor_map.cuh>
#include <dsv3/cuda/linear/float_sums_sm90.cuh>
#include <dsv3/cuda/linear/grouped_gemm.cuh>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// forward:  y = x · wᵀ        data: dx = dy · w        weights: dw = dyᵀ · x, or +=
/// As a product of a (m x k) and bᵀ (k x n): m and k, or n and k, of an operand may be the contiguous axis.
enum class grouped_kind { forward, data, weights };

template <grouped_kind Kind>
inline constexpr major a_major = Kind == grouped_kind::weights ? major::mn : major::k;
template <grouped_kind Kind>
inline constexpr major b_major = Kind == grouped_kind::forward ? major::k : major::mn;

/// Tiles of 128 x 256 sums, 64 rows for each of two warpgroups. A panel is 64 x 64 elements: a has two, b
/// four. Two blocks of a cluster make neighbouring tiles and share an operand, of which each fetches half for
/// both. Where all groups have the same rows, those of weights, that is the larger one: the tiles stand one
/// below the other. Elsewhere a group may have a single tile of rows, so they stand side by side.
template <grouped_kind Kind>
inline constexpr bool shares_b = Kind == grouped_kind::weights;

inline constexpr int wide_m = 128, wide_n = 256, wide_k = 64, wide_stages = 4, wide_threads = 384;
inline constexpr int panel_bytes = 64 * 64 * 2, wide_a_bytes = 2 * panel_bytes,
                     wide_b_bytes = 4 * panel_bytes;
inline constexpr int wide_band = 2048;        // columns that are walked along before the next rows
inline constexpr int wide_most_groups = 256;  // whose tiles are listed in shared memory

/// Cycles over which clusters spread their beginning where they make weights. Their tiles take the same time,
/// so that clusters in step would all store at once, more than the second-level cache takes in meanwhile.
inline constexpr int wide_spread = 16384;

struct alignas(1024) grouped_room {
  unsigned char operands[wide_stages][wide_a_bytes + wide_b_bytes];
  unsigned char staged[2][2 * panel_bytes];  // of a warpgroup: panels of results on their way out
  mbarrier full[wide_stages], empty[wide_stages];
  int first_tile[wide_most_groups + 1];  // of each group, counted through all of them
};
static_assert(sizeof(grouped_room) <= 227 * 1024);

template <class Out>
struct grouped_problem {
  group_rows rows;              // of x, or of dy
  const std::int32_t* offsets;  // of y or dx; of x where weights are made
  int m, n, k;                  // m: of dw; k: of rows; the others are the groups' counts
  Out* d;                       // rows of y or dx; matrices of dw
  index_t d_group, d_row;       // strides
  store into;                   // of dw; rows are written
};

// ---- kernels ----------------------------------------------------------------------------------------------

#if DSV3_SM90A

/// Where a tile begins: its row within the group, or in dw, and its column.
struct grouped_place {
  int group, row, column;
};

/// How the tiles of a group are numbered: those of a cluster count as one. They go along bands of columns, so
/// that the blocks at work share rows as well as columns.
template <grouped_kind Kind>
struct tile_order {
  int blocks = static_cast<int>(cluster_blocks()), rank = static_cast<int>(cluster_rank());
  int across;

  __device__ explicit tile_order(int n) : across((n + wide_n - 1) / wide_n / (shares_b<Kind> ? 1 : blocks)) {}

  __device__ int number(int rows) const {
    return (rows + wide_m - 1) / wide_m / (shares_b<Kind> ? blocks : 1) * across;
  }
  /// Tile `tile` of the list, looked for from `group` on.
  __device__ __forceinline__ grouped_place place(const grouped_room& room, int tile, int& group) const {
    while (tile >= room.first_tile[group + 1]) ++group;
    const int first = room.first_tile[group], down = (room.first_tile[group + 1] - first) / across;
    const int width = wide_band / (wide_n * (shares_b<Kind> ? 1 : blocks));
    const int band = (tile - first) / (down * width), at = tile - first - band * down * width;
    const int here = min(width, across - band * width), row = at / here, column = band * width + at % here;
    return {group, (shares_b<Kind> ? row * blocks + rank : row) * wide_m,
            (shares_b<Kind> ? column : column * blocks + rank) * wide_n};
  }
};

/// Lists how many tiles come before each group; by one warp.
template <grouped_kind Kind, class Out>
__device__ void list_tiles(const grouped_problem<Out>& p, grouped_room& room) {
  const tile_order<Kind> order(p.n);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;
  for (int first = 0; first < p.rows.groups; first += 32) {
    const int group = first + lane, count = group < p.rows.groups ? p.rows.counts[group] : 0;
    int upto = Kind != grouped_kind::weights                                    ? order.number(count)
               : group < p.rows.groups && (count > 0 || p.into == store::write) ? order.number(p.m)
                                                                                : 0;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(all_lanes, upto, step);
      if (lane >= step) upto += other;
    }
    if (group < p.rows.groups) room.first_tile[group + 1] = before + upto;
    before += __shfl_sync(all_lanes, upto, 31);
  }
  if (lane == 0) room.first_tile[0] = 0;
}

/// Steps of wide_k terms that a tile of a group sums.
template <grouped_kind Kind, class Out>
__device__ __forceinline__ int depth_of(const grouped_problem<Out>& p, int group) {
  return Kind == grouped_kind::weights ? p.rows.counts[group] : p.k;
}

/// A place in the ring of stages.
struct ring_place {
  unsigned stage = 0, parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == wide_stages) stage = 0, parity ^= 1;
  }
};

/// One thread: brings the operands of all tiles of this block.
template <grouped_kind Kind, class Out>
__device__ __forceinline__ void bring_operands(const grouped_problem<Out>& p, grouped_room& room,
                                               const CUtensorMap& a_map, const CUtensorMap& b_map) {
  const tile_order<Kind> order(p.n);
  const int blocks = order.blocks, rank = order.rank, clusters = static_cast<int>(gridDim.x) / blocks;
  const int cluster = static_cast<int>(blockIdx.x) / blocks, tiles = room.first_tile[p.rows.groups];
  if (Kind == grouped_kind::weights && tiles >= 16 * clusters) {  // few tiles would not make up for it
    const std::int64_t begin = clock64();
    while (clock64() - begin < cluster % 16 * wide_spread / 16) continue;
  }
  ring_place to;
  int group = 0;
  for (int tile = cluster; tile < tiles; tile += clusters) {
    const grouped_place at = order.place(room, tile, group);
    const int depth = depth_of<Kind>(p, group), row = p.rows.offsets[group];
    const int other_row = Kind == grouped_kind::weights ? p.offsets[group] : 0;
    for (int k = 0; k < depth; k += wide_k, to.advance()) {
      unsigned char *a = room.operands[to.stage], *b = a + wide_a_bytes;
      mbarrier& full = room.full[to.stage];
      room.empty[to.stage].wait(to.parity ^ 1);
      full.arrive_and_expect(wide_a_bytes + wide_b_bytes);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int along = Kind == grouped_kind::weights ? at.row + half * 64 : k;
        const int down = row + (Kind == grouped_kind::weights ? k : at.row + half * 64);
        if (shares_b<Kind> || blocks == 1)
          load_box(a + half * panel_bytes, a_map, full, along, down);
        else if (half == rank)
          load_box_to_all(a + half * panel_bytes, a_map, full, 3, along, down);
      }
      if constexpr (Kind == grouped_kind::forward)
        load_box(b, b_map, full, k, at.column, group);
      else
#pragma unroll
        for (int panel = 0; panel < 4; ++panel) {
          unsigned char* here = b + panel * panel_bytes;
          if constexpr (Kind == grouped_kind::data)
            load_box(here, b_map, full, at.column + panel * 64, k, group);
          else if (blocks == 1)
            load_box(here, b_map, full, at.column + panel * 64, other_row + k);
          else if (panel / 2 == rank)
            load_box_to_all(here, b_map, full, 3, at.column + panel * 64, other_row + k);
        }
    }
  }
}

/// Zeros the rows from `live` on of the panels of a stage that a warpgroup multiplies, its own of a and all
/// of b: what lies there belongs to others, or to nobody. The other warpgroup may read b already, and finds
/// the zeros that it wrote itself.
__device__ __forceinline__ void clear_rows(unsigned char* panels, int side, int live) {
  const int chunks = (wide_k - live) * 8;
  for (int at = static_cast<int>(threadIdx.x) % 128; at < 5 * chunks; at += 128) {
    const int panel = at < chunks ? side : 1 + at / chunks;
    *reinterpret_cast<uint4*>(panels + panel * panel_bytes + live * 128 + at % chunks * 16) =
        uint4{0, 0, 0, 0};
  }
  publish_shared();
  named_sync(static_cast<unsigned>(1 + side), 128);
}

/// 64 x 256 sums of a warpgroup, rounded, to the first `rows` rows and to columns below n. Whole boxes go by
/// the copy engine, which knows where columns end but not where groups do.
__device__ __forceinline__ void write_rows(float (&sums)[wide_n / 2], const grouped_problem<bf16>& p,
                                           const CUtensorMap& d_map, unsigned char* staged, index_t row,
                                           int rows, int column, unsigned barrier) {
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
#pragma unroll
  for (int panel = 0; panel < 4; ++panel, column += 64) {
    unsigned char* to = staged + panel % 2 * panel_bytes;
    if (thread == 0) wait_stores_read<1>();  // what was staged here two panels ago has left
    named_sync(barrier, 128);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* from = sums + panel * 32 + j * 8;
      const std::uint32_t part[4] = {pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]),
                                     pack_bf16(from[4], from[5]), pack_bf16(from[6], from[7])};
      store_matrices(
          shared_address(to) + swizzle_128(static_cast<std::uint32_t>(thread / 32 * 16 + lane % 16),
                                           static_cast<std::uint32_t>((j * 2 + lane / 16) * 16)),
          part);
    }
    publish_shared();
    named_sync(barrier, 128);
    if (thread == 0) {
      if (rows >= 64 && column < p.n) store_box(d_map, to, column, static_cast<int>(row));
      commit_stores();  // also of nothing: groups are counted
    }
    for (int at = thread; rows < 64 && at < rows * 8; at += 128) {
      const int r = at / 8, first = column + at % 8 * 8;
      const auto values = load_pack<8>(reinterpret_cast<const bf16*>(
          to + swizzle_128(static_cast<std::uint32_t>(r), static_cast<std::uint32_t>(at % 8 * 16))));
      bf16* out = p.d + (row + r) * p.d_row + first;
      if (first + 8 <= p.n)
        store_pack(out, values);
      else
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (first + e < p.n) out[e] = values[e];
    }
  }
}

/// Two warpgroups: multiply what is brought and write the results.
template <grouped_kind Kind, class Out>
__device__ __forceinline__ void multiply_tiles(const grouped_problem<Out>& p, grouped_room& room,
                                               const CUtensorMap& d_map) {
  const tile_order<Kind> order(p.n);
  const int blocks = order.blocks, clusters = static_cast<int>(gridDim.x) / blocks;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int side = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / 128 - 1,
                               0);  // which warpgroup, and which half of the rows
  constexpr unsigned a_step = a_major<Kind> == major::k ? 32 : 2048;
  constexpr unsigned b_step = b_major<Kind> == major::k ? 32 : 2048;
  float sums[wide_n / 2];
  ring_place from;
  int group = 0;
  for (int tile = static_cast<int>(blockIdx.x) / blocks; tile < room.first_tile[p.rows.groups];
       tile += clusters) {
    const grouped_place at = order.place(room, tile, group);
    const int depth = depth_of<Kind>(p, group), rows = p.rows.counts[group] - at.row - side * 64;
    const index_t row = index_t{p.offsets[group]} + at.row + side * 64;
    unsigned last = 0;
    if (Kind == grouped_kind::weights && depth == 0)
#pragma unroll
      for (float& sum : sums) sum = 0;
    pin(sums);
    for (int k = 0; k < depth; k += wide_k, from.advance()) {
      unsigned char* panels = room.operands[from.stage];
      room.full[from.stage].wait(from.parity);
      if constexpr (Kind == grouped_kind::weights)
        if (depth - k < wide_k) clear_rows(panels, side, depth - k);
      const std::uint64_t a = operand_at<a_major<Kind>>(shared_address(panels + side * panel_bytes));
      const std::uint64_t b = operand_at<b_major<Kind>>(shared_address(panels + wide_a_bytes), panel_bytes);
      fence_sums();
#pragma unroll
      for (unsigned step = 0; step < 4; ++step)
        multiply_bf16<wide_n, a_major<Kind>, b_major<Kind>>(
            sums, operand_after(a, step * a_step), operand_after(b, step * b_step), k > 0 || step > 0);
      commit_products();
      wait_products<1>();
      if (k > 0 && lane < blocks) room.empty[last].arrive_at(static_cast<unsigned>(lane));
      last = from.stage;
    }
    wait_products<0>();
    pin(sums);
    if (depth > 0 && lane < blocks) room.empty[last].arrive_at(static_cast<unsigned>(lane));
    if constexpr (Kind == grouped_kind::weights) {
      const int first = at.row + side * 64;
      put_sums<wide_n>(sums, p.d + group * p.d_group + first * p.d_row + at.column, p.d_row, p.m - first,
                       p.n - at.column, p.into);
    } else if (rows > 0 && at.column < p.n) {
      write_rows(sums, p, d_map, room.staged[side], row, rows, at.column, static_cast<unsigned>(1 + side));
    }
  }
  wait_stores();
}

#endif

template <grouped_kind Kind, class Out>
__global__ void __launch_bounds__(wide_threads, 1)
    grouped_wgmma_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map,
                         const __grid_constant__ CUtensorMap d_map, const grouped_problem<Out> p) {
#if DSV3_SM90A
  grouped_room& room = *reinterpret_cast<grouped_room*>(dynamic_shared());
  const unsigned warp = __shfl_sync(all_lanes, threadIdx.x / 32, 0), blocks = cluster_blocks();
  if (threadIdx.x == 0) {
    if (shared_address(&room) % 1024 != 0) __trap();
    prefetch_map(a_map), prefetch_map(b_map), prefetch_map(d_map);
    for (int s = 0; s < wide_stages; ++s) room.full[s].init(1), room.empty[s].init(8 * blocks);
    publish_barriers();
  }
  if (warp == 1) list_tiles<Kind>(p, room);
  __syncwarp();
  cluster_arrive(), cluster_wait();
  if (warp < 4) {
    give_registers<24>();
    if (warp == 0 && elected()) bring_operands<Kind>(p, room, a_map, b_map);
    __syncwarp();
  } else {
    take_registers<240>();
    multiply_tiles<Kind>(p, room, d_map);
  }
  cluster_arrive(), cluster_wait();  // nobody leaves while the other may still write to it
#else
  __trap();
#endif
}

// ---- selection and launch ---------------------------------------------------------------------------------

/// Every operand must be one that the copy engine can walk.
template <class A, class B, class C>
bool wgmma_takes(index_t groups, const A& a, const B& b, const C& c) {
  return groups <= wide_most_groups && takes_tensor_map(a) && takes_tensor_map(b) && takes_tensor_map(c);
}

template <grouped_kind Kind, class Ctx, class Out>
void launch_wgmma(Ctx& ctx, const char* name, const CUtensorMap& a, const CUtensorMap& b,
                  const CUtensorMap& d, const grouped_problem<Out>& p) {
  const index_t tiles = shares_b<Kind> ? ceil_div(p.m, wide_m) : ceil_div(p.n, wide_n);
  const unsigned blocks = tiles % 2 == 0 ? 2 : 1;
  const unsigned grid = static_cast<unsigned>(multiprocessors()) / blocks * blocks;
  launch(name, ctx.stream,
         {.grid = grid, .block = wide_threads, .shared_bytes = sizeof(grouped_room), .cluster = blocks},
         grouped_wgmma_kernel<Kind, Out>, a, b, d, p);
}

}  // namespace cuda::detail

/// bf16 whose rows and matrices lie multiples of 16 bytes apart, of at most 256 experts, and weight gradients
/// of whole packs of floats; the parent takes everything else.
template <class P>
struct implementation<op::grouped_gemm<P>, backend::hopper>
    : implementation<op::grouped_gemm<P>, backend::cuda> {
  using parent = implementation<op::grouped_gemm<P>, backend::cuda>;
  using typename parent::backward_data_args;
  using typename parent::backward_weights_args;
  using typename parent::forward_args;

  template <class Args>
  static const char* path(const Args& args) {
    return takes(args) ? backend::hopper::path : backend::cuda::path;
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    using namespace cuda::detail;
    if constexpr (in_bf16)
      if (takes(args))
        return launch_wgmma<grouped_kind::forward>(ctx, args.name, map(args.x.rows), map(args.w, wide_n),
                                                   map(args.y.rows), problem_of(args.x, args.y));
    parent::run(ctx, args);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const backward_data_args& args) {
    using namespace cuda::detail;
    if constexpr (in_bf16)
      if (takes(args))
        return launch_wgmma<grouped_kind::data>(ctx, args.name, map(args.dy.rows), map(args.w, 64),
                                                map(args.dx.rows), problem_of(args.dy, args.dx));
    parent::run(ctx, args);
  }
  template <class Ctx>
  static void run(Ctx& ctx, const backward_weights_args& args) {
    using namespace cuda::detail;
    if constexpr (in_bf16) {
      if (takes(args)) {
        const CUtensorMap dy = map(args.dy.rows);
        return launch_wgmma<grouped_kind::weights>(
            ctx, args.name, dy, map(args.x.rows), dy,
            grouped_problem<float>{.rows = groups_of(args.dy),
                                   .offsets = args.x.offsets.data(),
                                   .m = static_cast<int>(args.dw.extent(1)),
                                   .n = static_cast<int>(args.dw.extent(2)),
                                   .k = 0,
                                   .d = args.dw.data(),
                                   .d_group = args.dw.stride(0),
                                   .d_row = args.dw.stride(1),
                                   .into = args.into});
      }
    }
    parent::run(ctx, args);
  }

 private:
  static constexpr bool in_bf16 = std::is_same_v<activation<P>, bf16> && std::is_same_v<weight<P>, bf16> &&
                                  std::is_same_v<gradient<P>, float>;

  static bool takes(const forward_args& args) {
    return in_bf16 && cuda::detail::wgmma_takes(args.x.groups(), args.x.rows, args.w, args.y.rows);
  }
  static bool takes(const backward_data_args& args) {
    return in_bf16 && cuda::detail::wgmma_takes(args.dy.groups(), args.dy.rows, args.w, args.dx.rows);
  }
  static bool takes(const backward_weights_args& args) {
    return in_bf16 && cuda::takes_packs<4>(args.dw.data(), args.dw.stride(1)) && args.dw.stride(0) % 4 == 0 &&
           args.dw.extent(2) % 4 == 0 && !args.dw.empty() &&
           cuda::detail::wgmma_takes(args.dy.groups(), args.dy.rows, args.x.rows, args.x.rows);
  }

  template <class T>
  static CUtensorMap map(const view<T, 2>& rows) {
    return cuda::tensor_map("grouped_gemm", rows, {64, 64}, cuda::box_swizzle::bytes_128);
  }
  template <class T>
  static CUtensorMap map(const view<T, 3>& matrices, int rows) {
    return cuda::tensor_map("grouped_gemm", matrices, {1, rows, 64}, cuda::box_swizzle::bytes_128);
  }
  static cuda::detail::grouped_problem<bf16> problem_of(const ragged_view<const bf16>& x,
                                                        const ragged_view<bf16>& y) {
    return {.rows = cuda::detail::groups_of(x),
            .offsets = y.offsets.data(),
            .m = 0,
            .n = static_cast<int>(y.width()),
            .k = static_cast<int>(x.width()),
            .d = y.rows.data(),
            .d_group = 0,
            .d_row = y.rows.stride(0),
            .into = store::write};
  }
};

}  // namespace dsv3::inline DSV3_ABI
