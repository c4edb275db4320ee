// SPDX-License-Identifier: MIT
// Products over scaled tiles on Hopper's matrix unit: y = x · wᵀ, dx = dy · w from a transposed copy of w,
// and dw += (dyᵀ) · (xᵀ)ᵀ, dense or per group. docs/essays/scaled_grouped_product.md tells how and why.
//
// The unit sums the 128 products of a tile with the few bits it has; the sums of tiles are floats, multiplied
// by their scales. It has no other way, so this is also what accumulator_model::fp32 gets here.
#pragma once

#include <dsv3/cuda/device/mma.cuh>
#include <dsv3/cuda/device/tma.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/device/wgmma.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/host/tensor_map.cuh>
#include <dsv3/cuda/linear/float_sums_sm90.cuh>
#include <dsv3/cuda/linear/scaled/tile_walk_sm90.cuh>

#include <limits>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// Of c, what one block makes at a time, and how many stretches of 128 terms are on their way.
template <int Rows, int Columns, int Stages>
struct scaled_tiles {
  static constexpr int rows = Rows, columns = Columns, stages = Stages;
};
using tall_tiles = scaled_tiles<256, 128, 4>;
using square_tiles = scaled_tiles<128, 128, 6>;
using narrow_tiles = scaled_tiles<128, 32, 9>;
enum class tile_choice { tall, square, narrow };

// A warpgroup brings operands and scales, two multiply.
inline constexpr int scaled_threads = 384, scaled_consumers = 256;

template <class T, grouped_by By>
struct scaled_stages {
  static constexpr int depth = 128;
  std::uint8_t a[T::stages][T::rows * depth], b[T::stages][T::columns * depth];
  float a_scales[T::stages][T::rows];
  float b_scales[T::stages][By == grouped_by::terms ? T::columns : 4];  // of columns, or the first for all
  mbarrier full[T::stages], empty[T::stages];
};

// ---- selection --------------------------------------------------------------------------------------------

/// The shape of least time: rounds of tiles times what a tile takes, in units of 128 x 128 sums that waits
/// leave idle the less the taller the tile.
template <grouped_by By>
tile_choice scaled_tiles_for(index_t groups, index_t rows, index_t columns, int multiprocessors) {
  const auto time = [&]<class T>(T, double tile) {
    const index_t pairs = groups * ceil_div(rows, T::rows) * ceil_div(columns, 2 * T::columns);
    return static_cast<double>(ceil_div(pairs, multiprocessors / 2)) * tile;
  };
  const double tall = time(tall_tiles{}, 1.85), square = time(square_tiles{}, 1),
               narrow = time(narrow_tiles{}, 0.55);
  if (narrow < square && narrow < tall) return tile_choice::narrow;
  return square < tall ? tile_choice::square : tile_choice::tall;
}

// ---- kernels ----------------------------------------------------------------------------------------------

#if DSV3_SM90A

/// Where a role stands in the ring of stages.
template <int Stages>
struct stage_cursor {
  int at = 0;
  unsigned lap = 0;
  __device__ __forceinline__ void advance() {
    if (++at == Stages) at = 0, lap ^= 1;
  }
};

/// One thread: boxes of codes. The two blocks of a cluster need the same rows; each brings half of them to
/// both.
template <grouped_by By, class T>
__device__ void bring_codes(scaled_stages<T, By>& shared, stage_cursor<T::stages>& stage,
                            const walked_tile& tile, const CUtensorMap& a, const CUtensorMap& b) {
  constexpr int half = T::rows / 2, depth = scaled_stages<T, By>::depth;
  const int own = static_cast<int>(cluster_rank()) * half;
  const int row = tile.row + own + (By == grouped_by::rows ? tile.first : 0);
  const int term = By == grouped_by::rows ? 0 : tile.first;
  for (int k = 0; k < tile.terms; k += depth, stage.advance()) {
    mbarrier& full = shared.full[stage.at];
    shared.empty[stage.at].wait(stage.lap ^ 1);
    full.arrive_and_expect((T::rows + T::columns) * depth);
    load_box_to_all(shared.a[stage.at] + own * depth, a, full, 3, term + k, row);
    load_box(shared.b[stage.at], b, full, term + k, tile.column, By == grouped_by::rows ? tile.group : 0);
  }
}

/// One warp: scales, whatever their strides.
template <grouped_by By, class T, class A, class C>
__device__ void bring_scales(scaled_stages<T, By>& shared, stage_cursor<T::stages>& stage,
                             const walked_tile& tile, const scaled_problem<A, C>& all) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr bool by_terms = By == grouped_by::terms;
  const index_t tiles_before = by_terms ? all.groups.first_tile(tile.group) : 0;
  const float* a = all.a_scales.data + tiles_before * all.a_scales.tile_stride +
                   (tile.row + (by_terms ? 0 : tile.first)) * all.a_scales.row_stride;
  const float* b =
      all.b_scales.data + tiles_before * all.b_scales.tile_stride + tile.group * all.b_scales_step;
  // Rows and columns beyond the last read its scales.
  const auto a_stride = static_cast<int>(all.a_scales.row_stride),
             b_stride = static_cast<int>(all.b_scales.row_stride);
  const int last_column = static_cast<int>(all.n) - 1;
  for (int k = 0; k < tile.terms; k += scaled_stages<T, By>::depth, stage.advance()) {
    shared.empty[stage.at].wait(stage.lap ^ 1);
#pragma unroll 1
    for (int i = lane; i < T::rows; i += 32)  // not unrolled: this role has few registers, and time
      copy_async_word(shared_address(shared.a_scales[stage.at] + i), a + min(i, tile.rows - 1) * a_stride);
    if constexpr (by_terms) {
#pragma unroll 1
      for (int i = lane; i < T::columns; i += 32)
        copy_async_word(shared_address(shared.b_scales[stage.at] + i),
                        b + min(tile.column + i, last_column) * b_stride);
    } else if (lane == 0) {
      copy_async_word(shared_address(shared.b_scales[stage.at]),
                      b + min(tile.column, last_column) / 128 * b_stride);
    }
    shared.full[stage.at].arrive_after_copies();
    a += all.a_scales.tile_stride, b += all.b_scales.tile_stride;
  }
}

/// The terms of a group end inside this stage; what follows them, other groups' or nobody's, becomes zero.
template <grouped_by By, class T>
__device__ void clear_terms(scaled_stages<T, By>& shared, int stage, int first) {
  for (int i = static_cast<int>(threadIdx.x) - 128; i < T::rows + T::columns; i += scaled_consumers) {
    std::uint8_t* line = i < T::rows ? shared.a[stage] : shared.b[stage];
    const auto row = static_cast<std::uint32_t>(i < T::rows ? i : i - T::rows);
    int at = first;
    for (; at % 16 != 0; ++at) line[swizzle_128(row, static_cast<std::uint32_t>(at))] = 0;
    for (; at < 128; at += 16)
      *reinterpret_cast<uint4*>(line + swizzle_128(row, static_cast<std::uint32_t>(at))) = uint4{0, 0, 0, 0};
  }
  publish_shared();
  named_sync(1, scaled_consumers);
}

/// A warpgroup: 64 rows of a stage multiplied, scaled and added to their totals. `release` is called when
/// nothing of the stage is needed any more.
template <class A, grouped_by By, class T, class Release>
__device__ __forceinline__ void add_wave(scaled_stages<T, By>& shared, int stage, int row,
                                         float (&totals)[T::columns / 2], Release&& release) {
  constexpr int depth = scaled_stages<T, By>::depth;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const float block_scale = By == grouped_by::rows ? shared.b_scales[stage][0] : 1;
  const float upper = shared.a_scales[stage][row + sum_row(thread, 0)] * block_scale,
              lower = shared.a_scales[stage][row + sum_row(thread, 2)] * block_scale;
  const std::uint64_t a = operand_at(shared_address(shared.a[stage] + row * depth)),
                      b = operand_at(shared_address(shared.b[stage]));
  float sums[T::columns / 2];
  fence_sums();
#pragma unroll
  for (int step = 0; step < depth; step += 32)
    multiply_fp8<T::columns, A, fp8_e4m3>(sums, operand_after(a, step), operand_after(b, step), step > 0);
  commit_products();
  wait_products();
  pin(sums);
  if constexpr (By == grouped_by::rows) release();
#pragma unroll
  for (int i = 0; i < T::columns / 2; i += 4) {
    if constexpr (By == grouped_by::rows) {
      totals[i] += upper * sums[i], totals[i + 1] += upper * sums[i + 1];
      totals[i + 2] += lower * sums[i + 2], totals[i + 3] += lower * sums[i + 3];
    } else {
      const auto scales = load_pack<2>(shared.b_scales[stage] + sum_column(thread, i));
      totals[i] += upper * scales[0] * sums[i], totals[i + 1] += upper * scales[1] * sums[i + 1];
      totals[i + 2] += lower * scales[0] * sums[i + 2], totals[i + 3] += lower * scales[1] * sums[i + 3];
    }
  }
  if constexpr (By == grouped_by::terms) release();
}

/// A warpgroup: the sums of its rows over all terms. Its waves of 64 rows take turns with those of the other
/// warpgroup, so that short groups keep both at work; `Live` of them have live rows.
template <int Live, class A, grouped_by By, class T>
__device__ __forceinline__ void sum_terms(scaled_stages<T, By>& shared, stage_cursor<T::stages>& stage,
                                          int terms, bool clears,
                                          float (&totals)[T::rows / 128][T::columns / 2]) {
  constexpr int depth = scaled_stages<T, By>::depth;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = (static_cast<int>(threadIdx.x) / 128 - 1) * 64;
#pragma unroll 1
  for (int k = 0; k < terms; k += depth, stage.advance()) {
    shared.full[stage.at].wait(stage.lap);
    if (By == grouped_by::terms && clears && terms - k < depth) clear_terms(shared, stage.at, terms - k);
    const auto release = [&] {
      __syncwarp();
      if (lane < 2) shared.empty[stage.at].arrive_at(static_cast<unsigned>(lane));
    };
    if constexpr (Live > 1) add_wave<A>(shared, stage.at, row, totals[0], [] {});
    if constexpr (Live > 0)
      add_wave<A>(shared, stage.at, row + (Live - 1) * 128, totals[Live - 1], release);
    else
      release();
  }
}

/// A quad's four lanes each hold four words; lane i receives the i-th of all of them.
__device__ __forceinline__ void exchange_in_quad(std::uint32_t (&word)[4]) {
  const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const std::uint32_t got = __shfl_xor_sync(all_lanes, odd ? word[i] : word[i + 1], 1);
    (odd ? word[i] : word[i + 1]) = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t got = __shfl_xor_sync(all_lanes, high ? word[i] : word[i + 2], 2);
    (high ? word[i] : word[i + 2]) = got;
  }
}

/// A thread's part of 64 rows of totals to `c`, their first element, rounded: 16 bytes at a time. What is
/// added to is read before anything is written, so that nobody waits for it piece by piece.
template <int Columns>
__device__ __forceinline__ void store_totals(const float (&totals)[Columns / 2], bf16* c, index_t stride,
                                             int rows, int columns, store into) {
  constexpr int blocks = Columns / 32;
  const int thread = reread_thread(), quad = thread % 4;
  const auto live = [&](int half, int block) {
    return sum_row(thread, half * 2) < rows && block * 32 + quad * 8 < columns;
  };
  const auto place = [&](int half, int block) {
    return reinterpret_cast<uint4*>(c + sum_row(thread, half * 2) * stride + block * 32 + quad * 8);
  };
  std::uint32_t former[2][blocks][4] = {};
  if (into == store::add) {
#pragma unroll
    for (int i = 0; i < 2 * blocks; ++i)
      if (live(i / blocks, i % blocks)) {
        const uint4 found = *place(i / blocks, i % blocks);
        auto& words = former[i / blocks][i % blocks];
        words[0] = found.x, words[1] = found.y, words[2] = found.z, words[3] = found.w;
      }
#pragma unroll
    for (int i = 0; i < 2 * blocks; ++i) exchange_in_quad(former[i / blocks][i % blocks]);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int block = 0; block < blocks; ++block) {
      std::uint32_t word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = block * 16 + i * 4 + half * 2;
        const float2 before = unpack_bf16(former[half][block][i]);
        word[i] = pack_bf16(totals[at] + before.x, totals[at + 1] + before.y);
      }
      exchange_in_quad(word);
      if (live(half, block)) *place(half, block) = uint4{word[0], word[1], word[2], word[3]};
    }
}
/// The same in floats.
template <int Columns>
__device__ __forceinline__ void store_totals(const float (&totals)[Columns / 2], float* c, index_t stride,
                                             int rows, int columns, store into) {
  put_sums<Columns>(totals, c, stride, rows, columns, into);
}

#endif

template <class A, class C, grouped_by By, class T>
__global__ __launch_bounds__(scaled_threads,
                             1) void scaled_hopper_kernel(const __grid_constant__ scaled_problem<A, C> all,
                                                          const __grid_constant__ CUtensorMap a_map,
                                                          const __grid_constant__ CUtensorMap b_map) {
#if DSV3_SM90A
  auto& shared = *reinterpret_cast<scaled_stages<T, By>*>(dynamic_shared());
  if (threadIdx.x == 0) {
    prefetch_map(a_map), prefetch_map(b_map);
    for (int i = 0; i < T::stages; ++i) {
      shared.full[i].init(1 + 32);                      // the codes' thread, the scales' warp
      shared.empty[i].init(2 * scaled_consumers / 32);  // the warps that multiply, of both blocks
    }
    publish_barriers();
  }
  __syncwarp();
  cluster_arrive(), cluster_wait();

  const unsigned warp = threadIdx.x / 32;
  tile_walk<By, T::rows, T::columns, scaled_problem<A, C>> walk(all);
  walked_tile tile;
  stage_cursor<T::stages> stage;
  if (warp < 4) {
    give_registers<40>();
    if (warp == 0) {
      while (walk.next(tile)) {
        if (threadIdx.x == 0) bring_codes(shared, stage, tile, a_map, b_map);
        __syncwarp();
      }
    } else if (warp == 1) {
      while (walk.next(tile)) bring_scales(shared, stage, tile, all);
    }
  } else {
    take_registers<232>();
    const int first_row = static_cast<int>(threadIdx.x / 128 - 1) * 64;
    while (walk.next(tile)) {
      constexpr int waves = T::rows / 128;
      static_assert(waves <= 2);
      float totals[waves][T::columns / 2] = {};
      const int live = (tile.rows - first_row + 127) / 128;
      const bool clears = !all.groups.all();
      if (live >= waves)
        sum_terms<waves, A>(shared, stage, tile.terms, clears, totals);
      else if (live == 1)
        sum_terms<1, A>(shared, stage, tile.terms, clears, totals);
      else
        sum_terms<0, A>(shared, stage, tile.terms, clears, totals);
      C* c = all.c +
             (tile.row + first_row + (By == grouped_by::rows ? index_t{tile.first} : 0)) * all.c_stride +
             (By == grouped_by::terms ? tile.group * all.c_step : 0) + tile.column;
      const auto store = [&](const auto& of_wave, int row) {
        store_totals<T::columns>(of_wave, c + row * all.c_stride, all.c_stride, tile.rows - first_row - row,
                                 static_cast<int>(all.n) - tile.column, all.into);
      };
      store(totals[0], 0);
      if constexpr (waves > 1) store(totals[1], 128);
    }
  }
  __syncwarp();
  cluster_arrive(), cluster_wait();  // the other block may still write here
#else
  __trap();
#endif
}

// ---- launch -----------------------------------------------------------------------------------------------

/// What copy and matrix engine ask of a problem besides maps of its operands: output rows that take packs,
/// and extents and strides of scales that an int holds.
template <class A, class C>
bool takes_hopper(const scaled_problem<A, C>& p) {
  constexpr int width = std::is_same_v<C, bf16> ? 8 : 4;
  const auto small = [](index_t number) { return number >= 0 && number < std::numeric_limits<int>::max(); };
  return p.m > 0 && p.n > 0 && p.k > 0 && p.n % width == 0 && takes_packs<width>(p.c, p.c_stride) &&
         p.c_step % width == 0 && small(p.m + 512) && small(p.n + 512) && small(p.k + 512) &&
         small(256 * p.a_scales.row_stride) && small(p.n * p.b_scales.row_stride);
}

template <grouped_by By, class T, class A, class C>
void launch_scaled_hopper(const char* name, cudaStream_t stream, const scaled_problem<A, C>& p,
                          const view<const A, 2>& a, const view<const fp8_e4m3, 3>& b, int multiprocessors) {
  constexpr std::size_t bytes = sizeof(scaled_stages<T, By>);
  static_assert(bytes <= 232448);
  const index_t tiles = most_row_tiles<By>(p, T::rows) * ceil_div(p.n, 2 * T::columns) *
                        (By == grouped_by::terms ? p.groups.groups() : 1);
  const launch_shape shape{.grid = 2 * static_cast<unsigned>(std::min<index_t>(tiles, multiprocessors / 2)),
                           .block = scaled_threads,
                           .shared_bytes = bytes,
                           .cluster = 2};
  launch(name, stream, shape, scaled_hopper_kernel<A, C, By, T>, p,
         tensor_map(name, a, {T::rows / 2, 128}, box_swizzle::bytes_128),
         tensor_map(name, b, {1, T::columns, 128}, box_swizzle::bytes_128));
}

/// c = a · bᵀ, or +=, `a` [rows, terms], `b` [matrices, columns, terms], which the engines take.
template <grouped_by By, class A, class C>
void run_scaled_hopper(const char* name, cudaStream_t stream, const scaled_problem<A, C>& p,
                       const view<const A, 2>& a, const view<const fp8_e4m3, 3>& b) {
  const int processors = multiprocessors();
  const index_t groups = p.groups.groups(), rows = By == grouped_by::rows ? ceil_div(p.m, groups) : p.m;
  const tile_choice choice = scaled_tiles_for<By>(groups, rows, p.n, processors);
  if (choice == tile_choice::tall)
    launch_scaled_hopper<By, tall_tiles>(name, stream, p, a, b, processors);
  else if (choice == tile_choice::square)
    launch_scaled_hopper<By, square_tiles>(name, stream, p, a, b, processors);
  else
    launch_scaled_hopper<By, narrow_tiles>(name, stream, p, a, b, processors);
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
