// SPDX-License-Identifier: MIT
// How absorbed attention over pages is divided among thread blocks by lengths that only the device knows, and
// how the results of sequences that were divided come together.
#pragma once

#include <dsv3/cuda/attention/mla_decode.cuh>
#include <dsv3/cuda/device/math.cuh>
#include <dsv3/cuda/device/mma.cuh>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// Rows of queries and rows of keys that meet at a time, 64 each, lie in shared memory in panels of 64
/// columns under the 128-byte swizzle: eight of c, one of k_rope.
struct page_tiles {
  static constexpr int rows = 64, keys = 64, rank = 512, rope = 64;
  static constexpr int panels = 9, half_panels = 4;
  static constexpr int panel_bytes = 64 * 128;
  static constexpr int overhead = 4;     // what beginning a sequence costs, in tiles of keys
  static constexpr int least_part = 2;   // tiles, overhead included, that a thread block is started for
  static constexpr int split_cost = 12;  // what it costs to split sequences and join them, in tiles
};

// ---- selection --------------------------------------------------------------------------------------------

/// Each block of 64 rows has its own axis of work, on which the sequences stand one after the other, each as
/// long as its overhead and its tiles of keys. The axis is cut into equal parts, a thread block each; where a
/// cut falls into a sequence, the sequence is split. So the lengths, which only the device knows, decide
/// which sums are made where: a query's bits are the same from run to run, but not in other company.
struct page_plan {
  int row_blocks, parts;  // of a sequence; of an axis, at most
};
template <class Args>
page_plan plan_pages(const Args& args) {
  const index_t rows = args.queries.max_length * args.q_latent.extent(1);
  const index_t row_blocks = ceil_div(rows, page_tiles::rows);
  const index_t parts = std::max<index_t>(multiprocessors() / std::max<index_t>(row_blocks, 1), 1);
  return {static_cast<int>(row_blocks), static_cast<int>(parts)};
}

/// Of an axis of `length` on which `sequences` of `each` stand (0: not all are as long) the parts, `parts` at
/// most. Where as many whole sequences to a part take hardly longer, none is split.
DSV3_HOST_DEVICE constexpr int parts_of(long long length, int parts, long long sequences, long long each) {
  if (each > 0) {
    const long long together = (sequences + parts - 1) / parts, whole = sequences / together;
    if (whole * together == sequences && parts * (together * each - page_tiles::split_cost) <= length)
      return static_cast<int>(whole);
  }
  const long long wanted = length / page_tiles::least_part;
  return wanted < 1 ? 1 : wanted < parts ? static_cast<int>(wanted) : parts;
}
static_assert(parts_of(128 * 68, 132, 128, 68) == 128 && parts_of(128 * 68, 66, 128, 68) == 64);
static_assert(parts_of(100 * 68, 132, 100, 68) == 132 && parts_of(128 * 68, 132, 128, 0) == 132);
static_assert(parts_of(1028, 66, 1, 1028) == 66 && parts_of(5, 132, 1, 5) == 1);
/// Where a part of an axis begins, and which part a place belongs to.
DSV3_HOST_DEVICE inline long long part_begin(long long length, int parts, int part) {
  return length * part / parts;
}
DSV3_HOST_DEVICE inline int part_of(long long length, int parts, long long place) {
  return static_cast<int>(((place + 1) * parts + length - 1) / length) - 1;
}

template <class Args>
__device__ __forceinline__ decode_rows block_rows(const Args& args, const page_plan& plan, index_t sequence,
                                                  int row_block) {
  return decode_rows_of(args, plan.row_blocks, sequence * plan.row_blocks + row_block, page_tiles::rows);
}

/// How long a sequence is on the axis of a block of rows: nothing where it has none of its rows.
__device__ inline int axis_length(const decode_rows& rows) {
  if (rows.count() == 0) return 0;
  return page_tiles::overhead + static_cast<int>(ceil_div(rows.most_seen(), index_t{page_tiles::keys}));
}

// ---- kernels ----------------------------------------------------------------------------------------------

/// One block of rows of a sequence over tiles [first, last) of its keys; none where it has no `tiles`.
struct page_work {
  decode_rows rows;
  bool some;               // false: nothing is left
  int first, last, tiles;  // `tiles`: of the sequence
  int end, least_seen;     // keys of this part that some row sees, and that all see
  const std::int32_t* table;
  int page_tiles_each;         // tiles in a page
  int seen[page_tiles::rows];  // keys of this part that a row sees
};

/// A thread block's part of an axis, in shared memory: what it does now, and next.
struct page_part {
  page_work work[2];
  long long begin, end, start;  // on the axis; of the next sequence
  index_t next;                 // sequence
  long long reached[8];         // by warps along the axis
  int differ;                   // whether sequences are of several lengths
};

/// This part of the axis and its first sequence; by 256 threads that `sync` with each other. The first part
/// leaves where every sequence begins in `starts`, and how many parts there are, for the kernel after this
/// one.
template <class Args, class Sync>
__device__ __forceinline__ void find_part(const Args& args, const page_plan& plan, int row_block, int part,
                                          page_part& own, long long* starts, const Sync& sync) {
  const int thread = threadIdx.x, lane = thread % 32;
  const index_t sequences = args.queries.sequences();
  const auto length = [&](index_t b) {
    return b < sequences ? axis_length(block_rows(args, plan, b, row_block)) : 0;
  };
  // Sums over 256 sequences at a time; `visit` is told where each begins.
  const auto walk = [&](auto&& visit) {
    long long before = 0;
    for (index_t first = 0; first < sequences; first += 256) {
      const int tiles = length(first + thread);
      long long reached = tiles;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const long long other = __shfl_up_sync(all_lanes, reached, step);
        if (lane >= step) reached += other;
      }
      sync();
      if (lane == 31) own.reached[thread / 32] = reached;
      sync();
      for (int warp = 0; warp < thread / 32; ++warp) reached += own.reached[warp];
      visit(first + thread, before + reached - tiles, tiles);
      for (int warp = 0; warp < 8; ++warp) before += own.reached[warp];
    }
    return before;
  };
  const int each = length(0);
  if (thread == 0) own.differ = 0;
  const long long whole = walk([&](index_t b, long long, int tiles) {
    if (b < sequences && tiles != each) own.differ = 1;
  });
  sync();
  const int parts = parts_of(whole, plan.parts, sequences, own.differ != 0 ? 0 : each);
  const long long begin = part < parts ? part_begin(whole, parts, part) : whole;
  const long long end = part < parts ? part_begin(whole, parts, part + 1) : whole;
  if (thread == 0) own.next = sequences, own.start = whole, own.begin = begin, own.end = end;
  sync();
  walk([&](index_t b, long long start, int tiles) {
    if (part == 0 && b < sequences) starts[b] = start;
    // Of the sequences that reach beyond the part's begin the first; sequences of no length reach nowhere.
    if (tiles > 0 && start <= begin && begin < start + tiles) own.next = b, own.start = start;
  });
  if (part == 0 && thread == 0) starts[sequences] = whole, starts[sequences + 1] = parts;
  sync();
}

/// Finds the next sequence that this part has something of; by the same threads, false where there is none.
template <class Args, class Sync>
__device__ __forceinline__ bool next_work(const Args& args, const page_plan& plan, int row_block,
                                          page_part& own, page_work& work, const Sync& sync) {
  index_t b = own.next;
  long long start = own.start;
  sync();  // everybody knows them, and nobody reads the work before it any more
  for (int length; b < args.queries.sequences() && start < own.end; ++b, start += length) {
    const decode_rows rows = block_rows(args, plan, b, row_block);
    length = axis_length(rows);
    if (length == 0) continue;
    const int tiles = length - page_tiles::overhead;
    const auto within = [&](long long at) {
      return static_cast<int>(
          min(max(at - start - page_tiles::overhead, 0ll), static_cast<long long>(tiles)));
    };
    const int first = within(own.begin), last = within(own.end);
    if (first == last && (tiles > 0 || start < own.begin)) continue;
    const auto limited = [last](index_t seen) {
      return static_cast<int>(min(seen, index_t{last} * page_tiles::keys));
    };
    if (threadIdx.x == 0) {
      work.rows = rows, work.some = true;
      work.first = first, work.last = last, work.tiles = tiles;
      work.end = limited(rows.most_seen()), work.least_seen = limited(rows.seen(0));
      work.table = &args.cache.table(b, 0);
      work.page_tiles_each = static_cast<int>(args.cache.page_rows() / page_tiles::keys);
      own.next = b + 1, own.start = start + length;
    }
    if (threadIdx.x < page_tiles::rows)
      work.seen[threadIdx.x] = limited(rows.seen(min(index_t{threadIdx.x}, rows.count() - 1)));
    sync();
    return true;
  }
  if (threadIdx.x == 0) work.some = false;
  sync();
  return false;
}

/// Joins the results of sequences that were split; a warp to one of `Pieces` pieces of a row. The first warps
/// look after the numbers of the sequences too.
template <int Pieces, class Args>
__global__ void __launch_bounds__(256, 2)
    combine_parts_kernel(Args args, page_plan plan, const float* partial_sums, const float* partial_lse,
                         const long long* starts, decode_misuse wrong) {
  constexpr int columns = page_tiles::rank / Pieces, packs = columns / 128;  // of a warp, of a lane
  const unsigned lane = threadIdx.x % 32, warp = blockIdx.x * 8 + threadIdx.x / 32;
  const auto sequences = static_cast<unsigned>(args.queries.sequences());
  if (warp == 0) offsets_hold(args.queries, wrong.queries);
  if (warp < sequences) check_cache(args.cache, warp, wrong.cache);

  const unsigned row = warp / Pieces, index = row / page_tiles::rows, r = row % page_tiles::rows;
  const auto row_blocks = static_cast<unsigned>(plan.row_blocks), row_block = index % row_blocks;
  const unsigned b = index / row_blocks;
  if (b >= sequences) return;
  starts += row_block * (args.queries.sequences() + 2);
  const long long begin = starts[b] + page_tiles::overhead, end = starts[b + 1], length = starts[sequences];
  if (end <= begin) return;
  const int parts = static_cast<int>(starts[sequences + 1]);
  const int first = part_of(length, parts, begin), last = part_of(length, parts, end - 1);
  if (first == last) return;
  const decode_rows rows = block_rows(args, plan, b, static_cast<int>(row_block));
  if (r >= rows.count()) return;

  const auto place = [&](int part) {
    return (2 * (index_t{part} * row_blocks + row_block) + (part == first)) * page_tiles::rows + r;
  };
  float top = -INFINITY;
  for (int part = first + static_cast<int>(lane); part <= last; part += 32)
    top = fmaxf(top, partial_lse[place(part)]);
  top = reduce_lanes(top, [](float a, float b) { return fmaxf(a, b); });
  const float shift = top == -INFINITY ? 0.0f : top;
  const unsigned column = warp % Pieces * columns + 4 * lane;
  float sums[4 * packs] = {}, weights = 0;
#pragma unroll 4
  for (int part = first; part <= last; ++part) {
    const float weight = exp2f(partial_lse[place(part)] - shift);
    const float* from = partial_sums + place(part) * page_tiles::rank + column;
    weights += weight;
#pragma unroll
    for (int i = 0; i < packs; ++i) {
      const auto values = load_pack<4>(from + 128 * i);
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[4 * i + e] += weight * values[e];
    }
  }
  const index_t t = rows.token + rows.query(r), head = rows.head(r);
  const float factor = rows.seen(r) > 0 ? 1 / weights : 1;
#pragma unroll
  for (int i = 0; i < packs; ++i) {
    const uint2 packed{pack_bf16(sums[4 * i] * factor, sums[4 * i + 1] * factor),
                       pack_bf16(sums[4 * i + 2] * factor, sums[4 * i + 3] * factor)};
    *reinterpret_cast<uint2*>(&args.z(t, head, column + 128 * i)) = packed;
  }
  if (column == 0 && !args.lse.empty()) args.lse(head, t) = (top + log2f(weights)) * ln_of_2;
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
