// SPDX-License-Identifier: MIT
// Absorbed attention on the CPU: all heads of a few queries over rows of the latent cache, read where they
// lie, or, where they are in 8 bits, widened a tile at a time.
#pragma once

#include <dsv3/cpu/attention/cache_rows.hpp>
#include <dsv3/cpu/attention/rows.hpp>
#include <dsv3/cpu/attention/sequences.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/linear/few_rows.hpp>
#include <dsv3/op/attention/mla_decode.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace dsv3::inline DSV3_ABI {

/// All heads of all queries of a sequence are rows over the same keys; rows come in blocks. Keys come in
/// splits, each with a softmax of its own, merged in order; where splits begin depends on nothing. Either
/// every (block, split) is a part for a thread and leaves what it has in scratch, or, where blocks alone keep
/// the threads busy, a thread takes its block through all splits: the same sums in the same order. So the
/// result of a query depends on the query and the rows it sees: not on other queries and sequences, not on
/// the number of threads, not on pages.
template <class P, class Row>
struct implementation<op::mla_decode<P, Row>, backend::cpu> {
  using acc = accumulator<P>;
  using forward_args = typename op::mla_decode<P, Row>::forward_args;
  using statistics = cpu::softmax_row<acc>;
  using key_tile = cpu::key_tile<Row, activation<P>>;

  static constexpr index_t tile_rows = 64;    // keys that are scored at a time
  static constexpr index_t split_rows = 256;  // keys in one of the first splits; whole tiles
  static constexpr index_t block_rows = 128;  // heads × queries

  struct workspace {
    bool shared;                  // splits are parts
    view<acc, 3> q, scores;       // [slots, rows, columns]
    view<acc, 3> sums;            // [results, rows, kv_rank]      Σ exp(S - highest) c
    view<statistics, 2> softmax;  // [results, rows]
    view<activation<P>, 3> keys;  // [slots, tile_rows, columns]   only of rows that are widened
  };

  template <class Ctx>
  static workspace scratch(const Ctx& ctx, scratch_arena& arena, const forward_args& args) {
    const index_t slots = std::max(ctx.threads, 1);
    const index_t rows = std::min(args.queries.max_length * args.q_latent.extent(1), block_rows);
    const bool shared = slots > 1 && all_blocks(args) < 2 * slots;
    const index_t results = shared ? all_blocks(args) * (splits_of(args) + 1) : 2 * slots;
    const index_t columns = args.q_latent.extent(2) + args.q_rope.extent(2);
    return {.shared = shared,
            .q = arena.tensor<acc>(slots, rows, columns),
            .scores = arena.tensor<acc>(slots, rows, tile_rows),
            .sums = arena.tensor<acc>(results, rows, args.q_latent.extent(2)),
            .softmax = arena.tensor<statistics>(results, rows),
            .keys = arena.tensor<activation<P>>(key_tile::widens ? slots : 0, tile_rows, columns)};
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    cpu::require_offsets(args.queries, forward_args::name);
    cpu::require_pages(args.cache, forward_args::name);
    const workspace work = scratch(ctx, ctx.scratch, args);
    const index_t blocks = all_blocks(args), splits = splits_of(args);
    const int threads = work_of(args) < worthwhile ? 1 : ctx.threads;
    if (!work.shared) {
      cpu::parallel_slots(threads, blocks, [&](index_t slot, index_t index) {
        const block rows = block_of(args, index);
        const result total = empty(work, 2 * slot, rows.count());
        for (index_t split = 0; split_begin(split) < rows.most_seen(); ++split)
          merge(total, attend(args, work, slot, rows, split, 2 * slot + 1), rows.count());
        finish(args, rows, total);
      });
      return;
    }
    cpu::parallel_slots(threads, blocks * splits, [&](index_t slot, index_t part) {
      const block rows = block_of(args, part / splits);
      if (split_begin(part % splits) < rows.most_seen())
        attend(args, work, slot, rows, part % splits, blocks + part);
    });
    cpu::parallel_parts(threads, blocks, [&](index_t index) {
      const block rows = block_of(args, index);
      const result total = empty(work, index, rows.count());
      for (index_t split = 0; split_begin(split) < rows.most_seen(); ++split)
        merge(total, result_of(work, blocks + index * splits + split), rows.count());
      finish(args, rows, total);
    });
  }

 private:
  static constexpr index_t worthwhile = index_t{1} << 18;  // multiplications for which threads are woken

  // Rows [first, last) of the heads × queries of one sequence, head fastest.
  struct block {
    index_t sequence, token, heads, queries, length, first, last;  // `token`: the sequence's first
    index_t count() const { return last - first; }
    index_t query(index_t row) const { return (first + row) / heads; }
    index_t head(index_t row) const { return (first + row) % heads; }
    // Rows of the cache that a row sees: it and its predecessors see a prefix each.
    index_t seen(index_t row) const { return std::max<index_t>(length - queries + query(row) + 1, 0); }
    index_t most_seen() const { return count() > 0 ? seen(count() - 1) : 0; }
  };

  struct result {
    statistics* softmax;  // [rows]
    acc* sums;            // [rows, kv_rank]
    index_t rank;
  };

  static index_t blocks_of(const forward_args& args) {
    return ceil_div(args.queries.max_length * args.q_latent.extent(1), block_rows);
  }
  static index_t all_blocks(const forward_args& args) { return args.queries.sequences() * blocks_of(args); }
  static block block_of(const forward_args& args, index_t index) {
    const index_t b = index / blocks_of(args), heads = args.q_latent.extent(1);
    const index_range tokens = cpu::tokens_of(args.queries, b);
    const index_t rows = tokens.count() * heads, first = index % blocks_of(args) * block_rows;
    return {.sequence = b,
            .token = tokens.begin,
            .heads = heads,
            .queries = tokens.count(),
            .length = args.cache.lengths(b),
            .first = std::min(first, rows),
            .last = std::min(first + block_rows, rows)};
  }

  // Every 256 rows up to 4096, every 512 up to 8192, every 1024 up to 16384, ...: never many.
  static constexpr index_t split_begin(index_t split) {
    const index_t octave = std::max<index_t>(split / 8 - 1, 0);
    return (split_rows << octave) * (split - 8 * octave);
  }
  static index_t splits_of(const forward_args& args) {
    index_t splits = 0;
    while (split_begin(splits) < cpu::capacity_of(args.cache)) ++splits;
    return splits;
  }

  static index_t work_of(const forward_args& args) {
    index_t pairs = 0;
    for (index_t b = 0; b < args.queries.sequences(); ++b)
      pairs += cpu::tokens_of(args.queries, b).count() * args.cache.lengths(b);
    return pairs * args.q_latent.extent(1) * (args.q_latent.extent(2) + args.q_rope.extent(2));
  }

  static result result_of(const workspace& work, index_t index) {
    return {work.softmax[index].data(), work.sums[index].data(), work.sums.extent(2)};
  }
  static result empty(const workspace& work, index_t index, index_t rows) {
    const result nothing = result_of(work, index);
    std::fill_n(nothing.softmax, rows, statistics{});
    std::fill_n(nothing.sums, rows * nothing.rank, acc(0));
    return nothing;
  }

  // One block over the keys of one split, which begins before the last that a row of the block sees.
  static result attend(const forward_args& args, const workspace& work, index_t slot, const block& rows,
                       index_t split, index_t index) {
    const result out = empty(work, index, rows.count());
    const index_t rank = out.rank, width = rank + args.q_rope.extent(2), count = rows.count();
    const index_t end = std::min(split_begin(split + 1), rows.most_seen());
    acc *q = work.q[slot].data(), *scores = work.scores[slot].data();
    for (index_t r = 0; r < count; ++r) {
      const index_t t = rows.token + rows.query(r), head = rows.head(r);
      cpu::copy_row<acc>(args.q_latent[t][head].data(), rank, q + r * width);
      cpu::copy_row<acc>(args.q_rope[t][head].data(), width - rank, q + r * width + rank);
    }
    for (index_t tile = split_begin(split); tile < end; tile += tile_rows) {
      const index_t tile_end = std::min(tile + tile_rows, end);
      const key_tile opened(args.cache, rows.sequence, {tile, tile_end}, rank, width - rank, work.keys, slot);
      opened.each_stretch({tile, tile_end}, [&](index_t first, const auto& keys) {
        cpu::dot_rows(count, keys.extent(0), width, q, width, keys.data(), keys.stride(0),
                      [&](index_t r, index_t j, acc sum) {
                        scores[r * tile_rows + first - tile + j] = static_cast<acc>(args.scale) * sum;
                      });
      });
      for (index_t first = 0; first < count; first += cpu::block_height) {
        const index_t last = std::min(first + cpu::block_height, count);
        const auto seen_end = [&](index_t r) { return std::clamp(rows.seen(r), tile, tile_end); };
        for (index_t r = first; r < last; ++r) {
          const acc rescale = out.softmax[r].absorb(scores + r * tile_rows, seen_end(r) - tile);
          if (rescale != acc(1))
            for (index_t e = 0; e < rank; ++e) out.sums[r * rank + e] *= rescale;
        }
        // What the first row sees all see; beyond, each row takes its own.
        const index_t common = seen_end(first);
        add_keys(opened, {tile, common}, scores + first * tile_rows, last - first, out.sums + first * rank,
                 rank);
        for (index_t r = first; r < last; ++r)
          add_keys(opened, {common, seen_end(r)}, scores + r * tile_rows, 1, out.sums + r * rank, rank);
      }
    }
    return out;
  }

  // sums[r] += Σ_j weights[r][j - tile] c[j] over the keys j.
  static void add_keys(const key_tile& tile, index_range keys, const acc* weights, index_t rows, acc* sums,
                       index_t rank) {
    tile.each_stretch(keys, [&](index_t first, const auto& cached) {
      cpu::weighted_rows(rows, cached.extent(0), rank, weights + first - tile.first(), tile_rows,
                         cached.data(), cached.stride(0), true, sums, rank);
    });
  }

  static void merge(const result& into, const result& from, index_t rows) {
    for (index_t r = 0; r < rows; ++r) {
      auto& [highest, sum] = into.softmax[r];
      const auto [other_highest, other_sum] = from.softmax[r];
      const acc top = std::max(highest, other_highest);
      const acc shift = top == -std::numeric_limits<acc>::infinity() ? acc(0) : top;
      const acc keep = cpu::exponential(highest - shift), add = cpu::exponential(other_highest - shift);
      acc* to = into.sums + r * into.rank;
      const acc* other = from.sums + r * from.rank;
      DSV3_SIMD
      for (index_t e = 0; e < into.rank; ++e) to[e] = to[e] * keep + other[e] * add;
      highest = top;
      sum = sum * keep + other_sum * add;
    }
  }

  static void finish(const forward_args& args, const block& rows, const result& total) {
    for (index_t r = 0; r < rows.count(); ++r) {
      const auto [highest, sum] = total.softmax[r];
      const index_t t = rows.token + rows.query(r), head = rows.head(r);
      const acc divisor = rows.seen(r) > 0 ? sum : acc(1);
      const acc* sums = total.sums + r * total.rank;
      activation<P>* z = args.z[t][head].data();
      DSV3_SIMD
      for (index_t e = 0; e < total.rank; ++e) z[e] = activation<P>(sums[e] / divisor);
      if (!args.lse.empty()) args.lse(head, t) = highest + std::log(sum);
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI
