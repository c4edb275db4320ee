// SPDX-License-Identifier: MIT
// Latent attention on the CPU: tiles of scores small enough for the cache, so that no sequence needs a square.
#pragma once

#include <dsv3/cpu/host/math.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/host/product.hpp>
#include <dsv3/op/attention/mla_attention.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace dsv3::inline DSV3_ABI {

/// Keys come in tiles, queries in blocks. Of a block's scores with a tile the first `full` columns are visible to all
/// its rows and go through matrix products; the rest is the triangle on the diagonal, where row r sees r + 1 columns.
/// Masked elements are neither computed with nor read, so that a later token cannot reach an earlier one even as NaN.
template <class P>
struct implementation<op::mla_attention<P>, backend::cpu> {
  using op_type = op::mla_attention<P>;
  using acc = accumulator<P>;
  using forward_args = typename op_type::forward_args;
  using backward_args = typename op_type::backward_args;

  static constexpr index_t tile_rows = 256;   // of keys; also of queries in one part of forward
  static constexpr index_t block_rows = 64;   // of queries; divides tile_rows, so a triangle never crosses tiles
  static constexpr index_t most_groups = 16;  // of heads in backward, with one partial dk_rope each

  struct forward_scratch {
    view<acc, 3> q, k, v, scores, o;  // [slots, rows, columns]
    view<acc, 2> highest, sum;        // [slots, rows]           running maximum and sum of a row's exponentials
  };
  struct backward_scratch {
    view<acc, 3> q, d_o, k, v, p, ds, dk, dv, dq;  // [slots, rows, columns]
    view<acc, 2> projection;                       // [slots, max_length]    D
    view<acc, 3> dk_rope;                          // [groups, tokens, qk_rope]
  };

  template <class Ctx>
  static forward_scratch scratch(const Ctx& ctx, scratch_arena& arena, const forward_args& args) {
    const index_t slots = std::max(ctx.threads, 1), qk = args.q.extent(2), v_dim = args.o.extent(2);
    const index_t rows = std::min(args.sequence.max_length, tile_rows);
    const index_t keys = std::min(args.sequence.max_length, tile_rows);
    return {arena.tensor<acc>(slots, rows, qk),            arena.tensor<acc>(slots, keys, qk),
            arena.tensor<acc>(slots, keys, v_dim),         arena.tensor<acc>(slots, block_rows, keys),
            arena.tensor<acc>(slots, rows, v_dim),         arena.tensor<acc>(slots, rows),
            arena.tensor<acc>(slots, rows)};
  }

  template <class Ctx>
  static backward_scratch scratch(const Ctx& ctx, scratch_arena& arena, const backward_args& args) {
    const index_t slots = std::max(ctx.threads, 1), qk = args.q.extent(2), v_dim = args.o.extent(2);
    const index_t longest = args.sequence.max_length, keys = std::min(longest, tile_rows);
    return {arena.tensor<acc>(slots, block_rows, qk),   arena.tensor<acc>(slots, block_rows, v_dim),
            arena.tensor<acc>(slots, keys, qk),            arena.tensor<acc>(slots, keys, v_dim),
            arena.tensor<acc>(slots, block_rows, keys), arena.tensor<acc>(slots, block_rows, keys),
            arena.tensor<acc>(slots, keys, qk),            arena.tensor<acc>(slots, keys, v_dim),
            arena.tensor<acc>(slots, longest, qk),         arena.tensor<acc>(slots, longest),
            arena.tensor<acc>(groups_of(args), args.k_rope.extent(0), args.k_rope.extent(1))};
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    require_offsets(args.sequence, forward_args::name);
    const forward_scratch work = scratch(ctx, ctx.scratch, args);
    const index_t heads = args.q.extent(1), pairs = args.sequence.sequences() * heads;
    const index_t parts = ceil_div(args.sequence.max_length, tile_rows);
    cpu::parallel_slots(ctx.threads, parts * pairs, [&](index_t slot, index_t index) {
      const index_t first = (parts - 1 - index / pairs) * tile_rows;  // late queries see most keys and go first
      const index_range tokens = tokens_of(args.sequence, index % pairs / heads);
      const index_range rows{first, std::min(first + tile_rows, tokens.count())};
      if (rows.count() > 0) forward_part(args, work, slot, tokens, index % heads, rows);
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_args& args) {
    require_offsets(args.sequence, backward_args::name);
    const backward_scratch work = scratch(ctx, ctx.scratch, args);
    const index_t heads = args.q.extent(1), groups = groups_of(args);
    cpu::parallel_slots(ctx.threads, args.sequence.sequences() * groups, [&](index_t slot, index_t index) {
      const index_range group = split_range(heads, index % groups, groups);
      for (index_t head = group.begin; head < group.end; ++head)
        backward_head(args, work, slot, tokens_of(args.sequence, index / groups), head,
                      work.dk_rope[index % groups], head == group.begin);
    });
    const index_t qk_rope = args.k_rope.extent(1);
    cpu::parallel_ranges(ctx.threads, args.k_rope.extent(0), 256, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t)
        for (index_t e = 0; e < qk_rope; ++e) {
          acc sum = 0;
          for (index_t g = 0; g < groups; ++g) sum += work.dk_rope(g, t, e);
          args.dk_rope(t, e) = activation<P>(sum);
        }
    });
  }

 private:
  static constexpr auto no = cpu::transpose::no, yes = cpu::transpose::yes;

  // The sum over heads has one order whatever the thread count: within a group, then over groups.
  static index_t groups_of(const backward_args& args) { return std::min(args.q.extent(1), most_groups); }

  static index_range tokens_of(const packed_sequences& sequence, index_t index) {
    return {sequence.offsets(index), sequence.offsets(index + 1)};
  }

  static void require_offsets(const packed_sequences& sequence, const char* name) {
    const auto refuse = [&](const std::string& found) { raise(std::string(name) + ": " + found); };
    index_t reached = 0;
    for (index_t s = 0; s < sequence.sequences(); ++s) {
      const index_range tokens = tokens_of(sequence, s);
      const std::string which = "sequence " + std::to_string(s);
      if (tokens.begin != reached || tokens.end < tokens.begin)
        refuse(which + " has the tokens [" + std::to_string(tokens.begin) + ", " + std::to_string(tokens.end) +
               "), it must begin at " + std::to_string(reached) + " and not end before");
      if (tokens.count() > sequence.max_length)
        refuse(which + " has " + std::to_string(tokens.count()) + " tokens, max_length is " +
               std::to_string(sequence.max_length));
      reached = tokens.end;
    }
    if (reached != sequence.tokens())
      refuse("the sequences end at token " + std::to_string(reached) + ", there are " +
             std::to_string(sequence.tokens()) + " tokens");
  }

  // Columns [begin, end) of `rows` tokens from `first` on of one head, as accumulators.
  static void load(const view<const activation<P>, 3>& from, index_t first, index_t rows, index_t head, index_t begin,
                   index_t end, acc* to, index_t stride) {
    for (index_t r = 0; r < rows; ++r) copy_row(&from(first + r, head, begin), end - begin, to + r * stride);
  }
  template <class From, class To>
  static void copy_row(const From* from, index_t count, To* to) {
    DSV3_SIMD
    for (index_t i = 0; i < count; ++i) to[i] = static_cast<To>(static_cast<acc>(from[i]));
  }

  // k = (k_nope, k_rope) and v of `keys` tokens of one head.
  template <class Args>
  static void load_keys(const Args& args, index_t first, index_t keys, index_t head, acc* k, acc* v) {
    const index_t qk = args.q.extent(2), rope = args.k_rope.extent(1), nope = qk - rope, v_dim = args.o.extent(2);
    load(args.kv, first, keys, head, 0, nope, k, qk);
    for (index_t j = 0; j < keys; ++j) copy_row(args.k_rope[first + j].data(), rope, k + j * qk + nope);
    load(args.kv, first, keys, head, nope, nope + v_dim, v, v_dim);
  }

  // to += Σ_j weights[j · stride] · from[j], rows of `width`
  static void add_weighted(const acc* weights, index_t stride, index_t count, const acc* from, index_t width, acc* to) {
    index_t j = 0;
    for (; j + 4 <= count; j += 4) {
      const acc* row = from + j * width;
      const acc a = weights[j * stride], b = weights[(j + 1) * stride], c = weights[(j + 2) * stride],
                d = weights[(j + 3) * stride];
      DSV3_SIMD
      for (index_t e = 0; e < width; ++e)
        to[e] += (a * row[e] + b * row[width + e]) + (c * row[2 * width + e] + d * row[3 * width + e]);
    }
    for (; j < count; ++j) {
      const acc* row = from + j * width;
      DSV3_SIMD
      for (index_t e = 0; e < width; ++e) to[e] += weights[j * stride] * row[e];
    }
  }

  // Turns `count` scores of a row into exp(score - highest) and adds to `sum`; the result is what the row's earlier
  // sums are to be multiplied with. Without a finite score yet there is nothing to subtract: exp(-inf) is zero anyway.
  static acc exponentials(acc* scores, index_t count, acc& highest, acc& sum) {
    acc top = highest, added = 0;
    DSV3_SIMD_MAX(top)
    for (index_t j = 0; j < count; ++j) top = std::max(top, scores[j]);
    const acc shift = top == -std::numeric_limits<acc>::infinity() ? acc(0) : top;
    DSV3_SIMD_SUM(added)
    for (index_t j = 0; j < count; ++j) added += scores[j] = cpu::exponential(scores[j] - shift);
    const acc rescale = cpu::exponential(highest - shift);
    highest = top;
    sum = sum * rescale + added;
    return rescale;
  }

  // One head's queries `rows` of one sequence, which begin where a tile of keys does.
  static void forward_part(const forward_args& args, const forward_scratch& work, index_t slot, index_range tokens,
                           index_t head, index_range rows) {
    const index_t qk = args.q.extent(2), v_dim = args.o.extent(2), stride = work.scores.extent(2);
    acc *k = work.k[slot].data(), *v = work.v[slot].data(), *scores = work.scores[slot].data();
    acc *highest = work.highest[slot].data(), *sum = work.sum[slot].data();
    load(args.q, tokens.begin + rows.begin, rows.count(), head, 0, qk, work.q[slot].data(), qk);
    std::fill_n(highest, rows.count(), -std::numeric_limits<acc>::infinity());
    std::fill_n(sum, rows.count(), acc(0));
    for (index_t tile = 0; tile < rows.end; tile += tile_rows) {
      const index_t keys = std::min(tile_rows, rows.end - tile);
      load_keys(args, tokens.begin + tile, keys, head, k, v);
      for (index_t block = rows.begin; block < rows.end; block += block_rows) {
        const index_t count = std::min(block_rows, rows.end - block), at = block - rows.begin;
        const index_t full = std::min(block - tile, keys), edge = full < keys ? count : 0;
        acc* o = work.o[slot].data() + at * v_dim;
        cpu::product(no, yes, count, full + edge, qk, acc(args.scale), work.q[slot].data() + at * qk, qk, k, qk,
                     acc(0), scores, stride);
        for (index_t r = 0; r < count; ++r) {
          const index_t seen = full + std::min(r + 1, edge);
          const acc rescale = exponentials(scores + r * stride, seen, highest[at + r], sum[at + r]);
          if (tile > 0 && rescale != acc(1))
            for (index_t e = 0; e < v_dim; ++e) o[r * v_dim + e] *= rescale;
        }
        cpu::product(no, no, count, v_dim, full, acc(1), scores, stride, v, v_dim, acc(tile > 0), o, v_dim);
        for (index_t r = 0; r < edge; ++r)
          add_weighted(scores + r * stride + full, 1, r + 1, v + full * v_dim, v_dim, o + r * v_dim);
      }
    }
    for (index_t r = 0; r < rows.count(); ++r) {
      const index_t t = tokens.begin + rows.begin + r;
      const acc* o = work.o[slot].data() + r * v_dim;
      for (index_t e = 0; e < v_dim; ++e) args.o(t, head, e) = activation<P>(o[e] / sum[r]);
      if (!args.lse.empty()) args.lse(head, t) = highest[r] + std::log(sum[r]);
    }
  }

  // One head of one sequence. Its part of dk_rope is written to `partial` by the first head of a group and added by
  // the others.
  static void backward_head(const backward_args& args, const backward_scratch& work, index_t slot, index_range tokens,
                            index_t head, const view<acc, 2>& partial, bool first_of_group) {
    const index_t qk = args.q.extent(2), v_dim = args.o.extent(2), rope = args.k_rope.extent(1), nope = qk - rope;
    const index_t length = tokens.count(), stride = work.p.extent(2);
    acc *q = work.q[slot].data(), *d_o = work.d_o[slot].data(), *k = work.k[slot].data(), *v = work.v[slot].data();
    acc *p = work.p[slot].data(), *ds = work.ds[slot].data(), *projection = work.projection[slot].data();
    acc *dk = work.dk[slot].data(), *dv = work.dv[slot].data();
    for (index_t t = 0; t < length; ++t) {
      const activation<P>*row = &args.o(tokens.begin + t, head, 0), *d_row = &args.d_o(tokens.begin + t, head, 0);
      acc sum = 0;
      DSV3_SIMD_SUM(sum)
      for (index_t e = 0; e < v_dim; ++e) sum += acc(row[e]) * acc(d_row[e]);
      projection[t] = sum;
    }
    std::fill_n(work.dq[slot].data(), length * qk, acc(0));
    for (index_t tile = 0; tile < length; tile += tile_rows) {
      const index_t keys = std::min(tile_rows, length - tile);
      load_keys(args, tokens.begin + tile, keys, head, k, v);
      std::fill_n(dk, keys * qk, acc(0));
      std::fill_n(dv, keys * v_dim, acc(0));
      for (index_t block = tile; block < length; block += block_rows) {
        const index_t count = std::min(block_rows, length - block);
        const index_t full = std::min(block - tile, keys), edge = full < keys ? count : 0;
        acc* dq = work.dq[slot].data() + block * qk;
        load(args.q, tokens.begin + block, count, head, 0, qk, q, qk);
        load(args.d_o, tokens.begin + block, count, head, 0, v_dim, d_o, v_dim);
        cpu::product(no, yes, count, full + edge, qk, acc(args.scale), q, qk, k, qk, acc(0), p, stride);
        cpu::product(no, yes, count, full + edge, v_dim, acc(1), d_o, v_dim, v, v_dim, acc(0), ds, stride);
        for (index_t r = 0; r < count; ++r)
          differentials(p + r * stride, ds + r * stride, full + std::min(r + 1, edge),
                        args.lse(head, tokens.begin + block + r), projection[block + r], acc(args.scale));
        cpu::product(yes, no, full, v_dim, count, acc(1), p, stride, d_o, v_dim, acc(1), dv, v_dim);
        cpu::product(yes, no, full, qk, count, acc(1), ds, stride, q, qk, acc(1), dk, qk);
        cpu::product(no, no, count, qk, full, acc(1), ds, stride, k, qk, acc(1), dq, qk);
        for (index_t r = 0; r < edge; ++r) {  // query r of the triangle, and key r
          const index_t on_diagonal = r * stride + full + r, key = full + r;
          add_weighted(p + on_diagonal, stride, edge - r, d_o + r * v_dim, v_dim, dv + key * v_dim);
          add_weighted(ds + on_diagonal, stride, edge - r, q + r * qk, qk, dk + key * qk);
          add_weighted(ds + r * stride + full, 1, r + 1, k + full * qk, qk, dq + r * qk);
        }
      }
      for (index_t j = 0; j < keys; ++j) {
        const index_t t = tokens.begin + tile + j;
        copy_row(dk + j * qk, nope, &args.dkv(t, head, 0));
        copy_row(dv + j * v_dim, v_dim, &args.dkv(t, head, 0) + nope);
        const acc* from = dk + j * qk + nope;
        acc* to = partial[t].data();
        for (index_t e = 0; e < rope; ++e) to[e] = first_of_group ? from[e] : to[e] + from[e];
      }
    }
    for (index_t t = 0; t < length; ++t)
      copy_row(work.dq[slot].data() + t * qk, qk, &args.dq(tokens.begin + t, head, 0));
  }

  // p holds scores and ds holds d_o · v on entry: P = exp(S - lse), dS = scale P (dP - D).
  static void differentials(acc* p, acc* ds, index_t count, acc lse, acc projection, acc scale) {
    DSV3_SIMD
    for (index_t j = 0; j < count; ++j) {
      p[j] = cpu::exponential(p[j] - lse);
      ds[j] = p[j] * (ds[j] - projection) * scale;
    }
  }
};

}  // namespace dsv3
