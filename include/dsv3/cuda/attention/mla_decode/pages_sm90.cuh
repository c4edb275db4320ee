// SPDX-License-Identifier: MIT
// Absorbed attention over pages on Hopper: 64 rows of heads × queries, the 64 x 512 sums of a thread block
// divided between two warpgroups by columns, as FlashMLA does it.
#pragma once

#include <dsv3/cuda/attention/mla_decode/page_schedule.cuh>
#include <dsv3/cuda/device/mbarrier.cuh>
#include <dsv3/cuda/device/tma.cuh>
#include <dsv3/cuda/device/wgmma.cuh>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// Shared memory. What threads have in common lies here too: their registers are full.
struct alignas(1024) page_room {
  unsigned char queries[page_tiles::panels][page_tiles::panel_bytes];  // the last one becomes the odd weights
  unsigned char keys[2][page_tiles::panels][page_tiles::panel_bytes];  // of an even and an odd tile
  unsigned char even_weights[page_tiles::panel_bytes];
  float highest[64], even_scale[64], odd_scale[64], sum[2][64];
  mbarrier full[2][page_tiles::panels], empty[2][2];  // of a buffer's halves: left, right
  mbarrier known[2], taken[2];                        // part.work: written, and read by those who load
  page_part part;
};

static_assert(sizeof(page_room) <= 227 * 1024);

/// Barriers of the two warpgroups that multiply: the first two say that the weights of the even or the odd
/// tile, and by what they change those before them, are ready; the next is where both meet, the others are
/// those of one warpgroup.
enum class page_barrier : unsigned { even_weights = 1, odd_weights, both, warpgroup };

/// Threads: two warpgroups multiply, the third loads.
inline constexpr int page_threads = 384, page_multipliers = 256;

#if DSV3_SM90A

/// Sums, statistics and operands of one warpgroup. Scores are in base 2.
struct page_state {
  float sums[128] = {};
  float scores[32] = {};
  float exponentials[2] = {0, 0};  // of rows `upper` and `upper` + 8, of this thread's columns
  std::uint32_t rope[4][4];        // the queries' last panel as operands
  std::uint32_t weights[4][4];

  __device__ void rescale(float upper, float lower) {
    if (!__any_sync(all_lanes, upper != 1 || lower != 1)) return;  // the highest scores come early
#pragma unroll
    for (int i = 0; i < 128; ++i) sums[i] *= i / 2 % 2 == 0 ? upper : lower;
  }
  __device__ void load_rope(const unsigned char* panel) {
    const int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + tile_row(lane);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      load_matrices(rope[step], shared_address(panel) +
                                    swizzle_128(static_cast<unsigned>(row),
                                                static_cast<unsigned>(step * 32 + tile_column(lane) * 2)));
  }
  __device__ void round_weights() {
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        weights[step][i] = pack_bf16(scores[8 * step + 2 * i], scores[8 * step + 2 * i + 1]);
  }
  __device__ void store_weights(unsigned char* panel) const {
    const int thread = threadIdx.x % 128, lane = thread % 32;
    const unsigned row = static_cast<unsigned>(thread / 32 * 16 + lane / 8 % 2 * 8 + lane % 8);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      store_matrices(
          shared_address(panel) + swizzle_128(row, static_cast<unsigned>(step * 32 + lane / 16 * 16)),
          weights[step]);
  }
};

/// The description of an operand, made anew wherever it is used: kept from one round to the next, the many of
/// them would not fit into registers.
template <major Major = major::k>
__device__ __forceinline__ std::uint64_t described(const unsigned char* panel) {
  std::uint32_t address = shared_address(panel);
  asm volatile("" : "+r"(address));
  return operand_at<Major>(address, page_tiles::panel_bytes);
}

/// scores (+)= queries · keysᵀ over panels [Begin, End), each as soon as it is `loaded`.
template <int Begin, int End, class Loaded>
__device__ __forceinline__ void add_scores(page_state& state, const page_room& room, int buffer,
                                           bool overwrite, const Loaded& loaded) {
  const std::uint64_t keys = described(room.keys[buffer][0]), queries = described(room.queries[0]);
#pragma unroll
  for (int panel = Begin; panel < End; ++panel) {
    loaded(panel);
    fence_sums();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const bool add = !(overwrite && panel == Begin && step == 0);
      const std::uint32_t at = static_cast<std::uint32_t>(panel * page_tiles::panel_bytes + 32 * step);
      if (panel == page_tiles::panels - 1)
        multiply_bf16<64>(state.scores, state.rope[step], operand_after(keys, at), add);
      else
        multiply_bf16<64>(state.scores, operand_after(queries, at), operand_after(keys, at), add);
    }
  }
}

/// sums += weights · c of a tile, half of its columns; weights of this warpgroup's registers or of the
/// other's panel.
__device__ __forceinline__ void add_values(page_state& state, const unsigned char* values) {
  const std::uint64_t operand = described<major::mn>(values);
  fence_sums();
#pragma unroll
  for (int step = 0; step < 4; ++step)
    multiply_bf16<256, major::mn>(state.sums, state.weights[step], operand_after(operand, 2048 * step), true);
}
__device__ __forceinline__ void add_values(page_state& state, const unsigned char* weights,
                                           const unsigned char* values) {
  const std::uint64_t operand = described<major::mn>(values), rows = described(weights);
  fence_sums();
#pragma unroll
  for (int step = 0; step < 4; ++step)
    multiply_bf16<256, major::k, major::mn>(state.sums, operand_after(rows, 32 * step),
                                            operand_after(operand, 2048 * step), true);
}

/// One half of each tile of one parity, from sequence to sequence: a thread waits until nobody reads the half
/// any more, then loads its panels. A last tile without a partner is loaded twice; nobody sees it the second
/// time. A page that is none of the pool's reads as zeros.
__device__ __forceinline__ void load_tiles(page_room& room, const CUtensorMap& map, int buffer, int half) {
  const int begin = half == 0 ? 0 : page_tiles::half_panels;
  const int end = half == 0 ? page_tiles::half_panels : page_tiles::panels;
  unsigned lap = 1;
  for (int item = 0;; ++item) {
    room.known[item % 2].wait(item / 2 & 1);
    const page_work& work = room.part.work[item % 2];
    if (!work.some) return;
    const int last = work.last, each = work.page_tiles_each;
    const std::int32_t* table = work.table;
    int tile = work.first + buffer;
    room.taken[item % 2].arrive();
    for (; tile < last + buffer; tile += 2, lap ^= 1) {
      const int at = min(tile, last - 1), page = table[at / each], row = at % each * page_tiles::keys;
      room.empty[buffer][half].wait(lap);
      for (int panel = begin; panel < end; ++panel) {
        mbarrier& full = room.full[buffer][panel];
        full.arrive_and_expect(page_tiles::panel_bytes);
        load_box(room.keys[buffer][panel], map, full, 64 * panel, row, page, keep_in_l2::briefly);
      }
    }
  }
}
/// A half is read no more by this warp.
__device__ __forceinline__ void release(page_room& room, int buffer, int half) {
  if (threadIdx.x % 32 == 0) room.empty[buffer][half].arrive();
}

/// Turns scores into weights exp2(score - highest) and returns by what earlier sums are to be multiplied.
/// `factor` is the softmax scale in base 2, above zero.
__device__ __forceinline__ void weigh(page_state& state, page_room& room, const page_work& work, int tile,
                                      float factor, float (&scale)[2]) {
  const int thread = threadIdx.x % 128, upper = sum_row(thread, 0);
  const int first_key = tile * page_tiles::keys;
  if (first_key + page_tiles::keys > work.least_seen) {
    const int seen[2] = {work.seen[upper], work.seen[upper + 8]};
#pragma unroll
    for (int i = 0; i < 32; ++i)
      if (first_key + sum_column(thread, i) >= seen[i / 2 % 2]) state.scores[i] = -INFINITY;
  }
  float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int i = 0; i < 32; ++i) top[i / 2 % 2] = fmaxf(top[i / 2 % 2], state.scores[i]);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float before = room.highest[upper + 8 * h];
    top[h] = fmaxf(reduce_lanes<4>(top[h], [](float a, float b) { return fmaxf(a, b); }) * factor, before);
    // Where every score so far is -infinity there is nothing to subtract: exp2 gives zero anyway.
    const float shift = top[h] == -INFINITY ? 0.0f : top[h];
    scale[h] = exp2_approximately(before - shift);
    float added = 0;
#pragma unroll
    for (int i = 0; i < 32; ++i)
      if (i / 2 % 2 == h)
        added += state.scores[i] = exp2_approximately(fmaf(state.scores[i], factor, -shift));
    state.exponentials[h] = state.exponentials[h] * scale[h] + added;
    __syncwarp();  // all lanes have read it
    if (thread % 4 == 0) room.highest[upper + 8 * h] = top[h];
  }
  state.round_weights();
}

/// Zeroes the latents of a tile's keys that nobody sees: what lies there may be NaN, and is multiplied by
/// zero. By a warpgroup; true where something was to be done.
__device__ __forceinline__ bool clear_unseen(page_room& room, const page_work& work, int buffer, int tile) {
  const int seen = max(work.end - tile * page_tiles::keys, 0);
  if (seen >= page_tiles::keys) return false;
  for (int i = threadIdx.x % 128; i < (page_tiles::keys - seen) * 64; i += 128) {
    const int panel = i / 8 % 8, row = seen + i / 64;
    *reinterpret_cast<uint4*>(room.keys[buffer][panel] + row * 128 + i % 8 * 16) = uint4{0, 0, 0, 0};
  }
  return true;
}

__device__ __forceinline__ void sync_all(page_barrier which) {
  named_sync(static_cast<unsigned>(which), page_multipliers);
}
__device__ __forceinline__ void arrive(page_barrier which) {
  named_arrive(static_cast<unsigned>(which), page_multipliers);
}
__device__ __forceinline__ void sync_warpgroup(int group) {
  named_sync(static_cast<unsigned>(page_barrier::warpgroup) + group, 128);
}

/// Tiles come in pairs. The first warpgroup has the scores of the even tile and the left half of the sums,
/// the second the scores of the odd tile and the right half; each multiplies its own weights from registers
/// and the other's from shared memory.
///   even: scores · softmax · even weights by left values · odd weights by left values
///   odd:  scores · even weights by right values, softmax meanwhile · odd weights by right values
/// Half a tile may be loaded anew as soon as it was multiplied: the left halves say the first warpgroup, the
/// right halves, with the rotary panel, the second. The even tile is free before the odd one, and so loaded
/// before it: while the first warpgroup is in its softmax, the second has the tensor cores for its scores.
__device__ __forceinline__ void attend_even(page_state& state, page_room& room, const page_work& work,
                                            float factor, int& phase) {
  const int thread = threadIdx.x % 128, upper = sum_row(thread, 0);
  const auto loaded = [&](int panel) { room.full[0][panel].wait(phase); };
  for (int tile = work.first; tile < work.last; tile += 2, phase ^= 1) {
    add_scores<0, page_tiles::panels>(state, room, 0, true, loaded);
    commit_products();
    wait_products<0>();
    pin(state.scores);

    float scale[2];
    weigh(state, room, work, tile, factor, scale);
    if (thread % 4 == 0) room.even_scale[upper] = scale[0], room.even_scale[upper + 8] = scale[1];
    state.store_weights(room.even_weights);
    const bool cleared = clear_unseen(room, work, 0, tile);
    publish_shared();
    if (cleared) sync_warpgroup(0);
    arrive(page_barrier::even_weights);
    state.rescale(scale[0], scale[1]);
    pin(state.sums);
    pin(state.scores);
    add_values(state, room.keys[0][0]);
    commit_products();
    wait_products<0>();
    pin(state.sums);
    release(room, 0, 0);

    sync_all(page_barrier::odd_weights);
    scale[0] = room.odd_scale[upper], scale[1] = room.odd_scale[upper + 8];
    state.exponentials[0] *= scale[0], state.exponentials[1] *= scale[1];
    state.rescale(scale[0], scale[1]);
    pin(state.sums);
    add_values(state, room.queries[page_tiles::panels - 1], room.keys[1][0]);
    commit_products();
    wait_products<0>();
    pin(state.sums);
    release(room, 1, 0);
  }
}

__device__ __forceinline__ void attend_odd(page_state& state, page_room& room, const page_work& work,
                                           float factor, int& phase) {
  const int thread = threadIdx.x % 128, upper = sum_row(thread, 0);
  const auto loaded = [&](int panel) { room.full[1][panel].wait(phase); };
  for (int tile = work.first; tile < work.last; tile += 2, phase ^= 1) {
    add_scores<page_tiles::half_panels, page_tiles::panels>(state, room, 1, true, loaded);
    add_scores<0, page_tiles::half_panels>(state, room, 1, false, loaded);
    commit_products();
    wait_products<0>();
    pin(state.scores);

    sync_all(page_barrier::even_weights);
    float scale[2] = {room.even_scale[upper], room.even_scale[upper + 8]};
    state.exponentials[0] *= scale[0], state.exponentials[1] *= scale[1];
    state.rescale(scale[0], scale[1]);
    pin(state.sums);
    add_values(state, room.even_weights, room.keys[0][page_tiles::half_panels]);
    commit_products();

    weigh(state, room, work, tile + 1, factor, scale);
    if (thread % 4 == 0) room.odd_scale[upper] = scale[0], room.odd_scale[upper + 8] = scale[1];
    state.store_weights(room.queries[page_tiles::panels - 1]);
    const bool cleared = clear_unseen(room, work, 1, tile + 1);
    publish_shared();
    if (cleared) sync_warpgroup(1);
    arrive(page_barrier::odd_weights);
    wait_products<0>();
    pin(state.sums);
    release(room, 0, 1);
    state.rescale(scale[0], scale[1]);
    pin(state.sums);
    pin(state.scores);
    add_values(state, room.keys[1][page_tiles::half_panels]);
    commit_products();
    wait_products<0>();
    pin(state.sums);
    release(room, 1, 1);
  }
}

/// Queries of the work's rows on their way into shared memory, zeros beyond the last; a warp to a row.
template <class Args>
__device__ __forceinline__ void load_queries(const Args& args, const decode_rows& rows, page_room& room) {
  const int lane = threadIdx.x % 32;
  for (int row = threadIdx.x / 32; row < page_tiles::rows; row += 8) {
    const bool there = row < rows.count();
    const index_t t = rows.token + (there ? rows.query(row) : 0), head = there ? rows.head(row) : 0;
    const bf16 *latent = args.q_latent[t][head].data(), *rope = args.q_rope[t][head].data();
    for (int column = lane; column < page_tiles::panels * 8; column += 32) {  // of 16 bytes
      const int panel = column / 8;
      copy_async(shared_address(room.queries[panel]) +
                     swizzle_128(static_cast<unsigned>(row), static_cast<unsigned>(column % 8 * 16)),
                 panel < page_tiles::panels - 1 ? latent + 8 * column : rope + 8 * (column % 8), there);
    }
  }
  commit_copies();
}

/// z and lse of a whole sequence's rows, or their part's result: sums divided, lse in base 2.
template <class Args>
__device__ __forceinline__ void leave_result(const Args& args, const page_work& work, page_room& room,
                                             page_state& state, index_t place, float* partial_sums,
                                             float* partial_lse) {
  const decode_rows& rows = work.rows;
  const bool whole = work.first == 0 && work.last == work.tiles;
  partial_sums += place * page_tiles::rows * page_tiles::rank, partial_lse += place * page_tiles::rows;
  const int group = threadIdx.x / 128, thread = threadIdx.x % 128, upper = sum_row(thread, 0);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float sum = sum_lanes<4>(state.exponentials[h]);
    if (thread % 4 == 0) room.sum[group][upper + 8 * h] = sum;
  }
  sync_all(page_barrier::both);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = upper + 8 * h;
    if (row >= rows.count()) continue;
    const index_t t = rows.token + rows.query(row), head = rows.head(row);
    const float sum = room.sum[0][row] + room.sum[1][row], highest = room.highest[row];
    const float factor = rows.seen(row) > 0 && (whole || sum != 0) ? 1 / sum : 1;
    if (group == 0 && thread % 4 == 0) {
      if (!whole)
        partial_lse[row] = highest + log2f(sum);
      else if (!args.lse.empty())
        args.lse(head, t) = highest * ln_of_2 + logf(sum);
    }
#pragma unroll
    for (int i = 2 * h; i < 128; i += 4) {
      const int column = 256 * group + sum_column(thread, i);
      const float x = state.sums[i] * factor, y = state.sums[i + 1] * factor;
      if (whole)
        *reinterpret_cast<std::uint32_t*>(&args.z(t, head, column)) = pack_bf16(x, y);
      else
        *reinterpret_cast<float2*>(partial_sums + row * page_tiles::rank + column) = {x, y};
    }
  }
}

#endif

/// A thread block takes one part of the work of its rows. Of a sequence that it shares it leaves a result in
/// place 0 where it found it begun, in place 1 where it begins it.
template <class Args>
__global__ void __launch_bounds__(page_threads, 1)
    attend_pages_kernel(const __grid_constant__ CUtensorMap map, const __grid_constant__ Args args,
                        const __grid_constant__ page_plan plan, float* partial_sums, float* partial_lse,
                        long long* starts) {
#if DSV3_SM90A
  extern __shared__ page_room page_rooms[];
  page_room& room = page_rooms[0];
  const int row_block = blockIdx.x, part = blockIdx.y, thread = threadIdx.x;
  const int group = __shfl_sync(all_lanes, thread / 128, 0);  // the compiler sees that warps do not part
  if (thread == 0) {
    prefetch_map(map);
    for (int i = 0; i < 2; ++i) {
      for (int panel = 0; panel < page_tiles::panels; ++panel) room.full[i][panel].init(1);
      for (int half = 0; half < 2; ++half) room.empty[i][half].init(4);
      room.known[i].init(1), room.taken[i].init(4);
    }
    publish_barriers();
  }
  __syncthreads();

  if (group == 2) {
    give_registers<40>();
    if (thread % 32 == 0) load_tiles(room, map, thread / 32 % 2, thread / 64 % 2);
    __syncwarp();
  } else {
    take_registers<232>();
    const auto sync = [] { sync_all(page_barrier::both); };
    find_part(args, plan, row_block, part, room.part, starts + row_block * (args.queries.sequences() + 2),
              sync);
    const float factor = static_cast<float>(args.scale) * log2_of_e;
    int phase = 0;  // of both buffers

    const auto find = [&](int item) {
      if (thread == 0) room.taken[item % 2].wait((item / 2 & 1) ^ 1);
      const bool some = next_work(args, plan, row_block, room.part, room.part.work[item % 2], sync);
      if (thread == 0) room.known[item % 2].arrive();
      return some;
    };
    bool some = find(0);
    for (int item = 0; some; ++item) {
      const page_work& work = room.part.work[item % 2];
      load_queries(args, work.rows, room);
      some = find(item + 1);
      if (thread < page_tiles::rows) room.highest[thread] = -INFINITY;
      wait_copies<0>();
      publish_shared();
      sync();
      page_state state;
      state.load_rope(room.queries[page_tiles::panels - 1]);
      sync();
      if (group == 0)
        attend_even(state, room, work, factor, phase);
      else
        attend_odd(state, room, work, factor, phase);
      const index_t place =
          2 * (static_cast<index_t>(part) * plan.row_blocks + row_block) + (work.first == 0);
      leave_result(args, work, room, state, place, partial_sums, partial_lse);
      sync();
    }
  }
#else
  __trap();
#endif
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
