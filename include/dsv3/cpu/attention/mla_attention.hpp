// SPDX-License-Identifier: MIT
// Latent attention on the CPU by tiles of scores that fit the cache: no sequence needs its square.
#pragma once

#include <dsv3/cpu/attention/rows.hpp>
#include <dsv3/cpu/attention/sequences.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/host/product.hpp>
#include <dsv3/op/attention/mla_attention.hpp>

#include <algorithm>
#include <cmath>
#include <string>

namespace dsv3::inline DSV3_ABI {

/// Keys come in tiles, queries in blocks. Of a block's scores with a tile the first `full` columns are
/// visible to all its rows and go through matrix products; where the block meets the diagonal, `edge` more
/// columns form a triangle in which row r sees r + 1 of them. What is masked is never multiplied with: no
/// later token reaches an earlier one, not even as NaN. A part's work does not depend on who else is at work,
/// so neither do results.
template <class P>
struct implementation<op::mla_attention<P>, backend::cpu> {
  using op_type = op::mla_attention<P>;
  using acc = accumulator<P>;
  using forward_args = typename op_type::forward_args;
  using backward_args = typename op_type::backward_args;

  static constexpr index_t tile_rows = 256;   // of keys; also of queries in one part of forward
  static constexpr index_t block_rows = 64;   // of queries; divides tile_rows: no triangle crosses tiles
  static constexpr index_t most_groups = 16;  // of heads in backward, each with its own partial dk_rope

  struct forward_scratch {
    view<acc, 3> q, k, v, scores, o;         // [slots, rows, columns]
    view<cpu::softmax_row<acc>, 2> softmax;  // [slots, rows]
  };
  struct backward_scratch {
    view<acc, 3> q, d_o, k, v, p, ds, dk, dv, dq;  // [slots, rows, columns]
    view<acc, 2> projection;                       // [slots, max_length]           D
    view<acc, 3> dk_rope;                          // [groups, tokens, qk_rope]
  };

  template <class Ctx>
  static forward_scratch scratch(const Ctx& ctx, scratch_arena& arena, const forward_args& args) {
    const index_t slots = std::max(ctx.threads, 1), qk = args.q.extent(2), v_dim = args.o.extent(2);
    const index_t rows = std::min(args.sequence.max_length, tile_rows);
    const index_t keys = std::min(args.key_sequence().max_length, tile_rows);
    return {.q = arena.tensor<acc>(slots, rows, qk),
            .k = arena.tensor<acc>(slots, keys, qk),
            .v = arena.tensor<acc>(slots, keys, v_dim),
            .scores = arena.tensor<acc>(slots, block_rows, keys),
            .o = arena.tensor<acc>(slots, rows, v_dim),
            .softmax = arena.tensor<cpu::softmax_row<acc>>(slots, rows)};
  }

  template <class Ctx>
  static backward_scratch scratch(const Ctx& ctx, scratch_arena& arena, const backward_args& args) {
    const index_t slots = std::max(ctx.threads, 1), qk = args.q.extent(2), v_dim = args.o.extent(2);
    const index_t longest = args.sequence.max_length, rows = std::min(longest, tile_rows);
    return {.q = arena.tensor<acc>(slots, block_rows, qk),
            .d_o = arena.tensor<acc>(slots, block_rows, v_dim),
            .k = arena.tensor<acc>(slots, rows, qk),
            .v = arena.tensor<acc>(slots, rows, v_dim),
            .p = arena.tensor<acc>(slots, block_rows, rows),
            .ds = arena.tensor<acc>(slots, block_rows, rows),
            .dk = arena.tensor<acc>(slots, rows, qk),
            .dv = arena.tensor<acc>(slots, rows, v_dim),
            .dq = arena.tensor<acc>(slots, longest, qk),
            .projection = arena.tensor<acc>(slots, longest),
            .dk_rope = arena.tensor<acc>(groups_of(args), args.k_rope.extent(0), args.k_rope.extent(1))};
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    cpu::require_offsets(args.sequence, forward_args::name);
    require_keys(args);
    const forward_scratch work = scratch(ctx, ctx.scratch, args);
    const index_t heads = args.q.extent(1), pairs = args.sequence.sequences() * heads;
    const index_t parts = ceil_div(args.sequence.max_length, tile_rows);
    cpu::parallel_slots(ctx.threads, parts * pairs, [&](index_t slot, index_t index) {
      // Late queries see most keys and go first.
      const index_t first = (parts - 1 - index / pairs) * tile_rows;
      const index_t s = index % pairs / heads;
      const index_range tokens = cpu::tokens_of(args.sequence, s),
                        keys = cpu::tokens_of(args.key_sequence(), s);
      const index_range rows{first, std::min(first + tile_rows, tokens.count())};
      if (rows.count() > 0) forward_part(args, work, slot, tokens, keys, index % heads, rows);
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_args& args) {
    cpu::require_offsets(args.sequence, backward_args::name);
    const backward_scratch work = scratch(ctx, ctx.scratch, args);
    const index_t heads = args.q.extent(1), groups = groups_of(args), rope = args.k_rope.extent(1);
    cpu::parallel_slots(ctx.threads, args.sequence.sequences() * groups, [&](index_t slot, index_t index) {
      const index_range group = split_range(heads, index % groups, groups);
      for (index_t head = group.begin; head < group.end; ++head)
        backward_head(args, work, slot, cpu::tokens_of(args.sequence, index / groups), head,
                      work.dk_rope[index % groups], head == group.begin);
    });
    cpu::parallel_ranges(ctx.threads, args.k_rope.extent(0), 256, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t)
        for (index_t e = 0; e < rope; ++e) {
          acc sum = 0;
          for (index_t g = 0; g < groups; ++g) sum += work.dk_rope(g, t, e);
          args.dk_rope(t, e) = activation<P>(sum);
        }
    });
  }

 private:
  static constexpr auto no = cpu::transpose::no, yes = cpu::transpose::yes;

  static index_t groups_of(const backward_args& args) { return std::min(args.q.extent(1), most_groups); }

  // k = (k_nope, k_rope) and v of one head.
  template <class Args>
  static void load_keys(const Args& args, index_t first, index_t keys, index_t head, acc* k, acc* v) {
    const index_t qk = args.q.extent(2), v_dim = args.o.extent(2);
    const index_t rope = args.k_rope.extent(1), nope = qk - rope;
    cpu::load_rows(args.kv, first, keys, head, 0, nope, k, qk);
    for (index_t j = 0; j < keys; ++j)
      cpu::copy_row<acc>(args.k_rope[first + j].data(), rope, k + j * qk + nope);
    cpu::load_rows(args.kv, first, keys, head, nope, nope + v_dim, v, v_dim);
  }

  static void require_keys(const forward_args& args) {
    cpu::require_offsets(args.key_sequence(), forward_args::name);
    for (index_t s = 0; s < args.sequence.sequences(); ++s) {
      const index_t queries = cpu::tokens_of(args.sequence, s).count(),
                    keys = cpu::tokens_of(args.key_sequence(), s).count();
      if (queries > keys)
        raise(std::string(forward_args::name) + ": sequence " + std::to_string(s) + " has " +
              std::to_string(queries) + " queries, and only " + std::to_string(keys) + " keys");
    }
  }

  // The queries `rows` of one head of one sequence. With as many queries as keys they begin where a tile of
  // keys does, and no triangle crosses tiles.
  static void forward_part(const forward_args& args, const forward_scratch& work, index_t slot,
                           index_range tokens, index_range keys_of_sequence, index_t head, index_range rows) {
    const index_t qk = args.q.extent(2), v_dim = args.o.extent(2), stride = work.scores.extent(2);
    const index_t before = keys_of_sequence.count() - tokens.count();  // keys that all queries see
    acc *k = work.k[slot].data(), *v = work.v[slot].data(), *scores = work.scores[slot].data();
    cpu::softmax_row<acc>* softmax = work.softmax[slot].data();
    cpu::load_rows(args.q, tokens.begin + rows.begin, rows.count(), head, 0, qk, work.q[slot].data(), qk);
    std::fill_n(softmax, rows.count(), cpu::softmax_row<acc>{});
    for (index_t tile = 0; tile < before + rows.end; tile += tile_rows) {
      const index_t keys = std::min(tile_rows, before + rows.end - tile);
      load_keys(args, keys_of_sequence.begin + tile, keys, head, k, v);
      for (index_t block = rows.begin; block < rows.end; block += block_rows) {
        const index_t count = std::min(block_rows, rows.end - block), at = block - rows.begin;
        const auto seen = [&](index_t r) { return std::clamp<index_t>(before + block + r - tile, 0, keys); };
        const index_t full = seen(0), all = seen(count);  // before the triangle, and with it
        if (tile > 0 && all == 0) continue;
        const acc* q = work.q[slot].data() + at * qk;
        acc* o = work.o[slot].data() + at * v_dim;
        cpu::product(no, yes, count, all, qk, args.scale, q, qk, k, qk, 0, scores, stride);
        for (index_t r = 0; r < count; ++r) {
          const acc rescale = softmax[at + r].absorb(scores + r * stride, seen(r + 1));
          if (tile > 0 && rescale != acc(1))
            for (index_t e = 0; e < v_dim; ++e) o[r * v_dim + e] *= rescale;
        }
        cpu::product(no, no, count, v_dim, full, 1, scores, stride, v, v_dim, tile > 0 ? 1 : 0, o, v_dim);
        for (index_t r = 0; r < count; ++r)
          cpu::add_weighted_rows(scores + r * stride + full, 1, seen(r + 1) - full, v + full * v_dim, v_dim,
                                 o + r * v_dim);
      }
    }
    for (index_t r = 0; r < rows.count(); ++r) {
      const index_t t = tokens.begin + rows.begin + r;
      const acc* o = work.o[slot].data() + r * v_dim;
      const auto [highest, sum] = softmax[r];
      for (index_t e = 0; e < v_dim; ++e) args.o(t, head, e) = activation<P>(o[e] / sum);
      if (!args.lse.empty()) args.lse(head, t) = highest + std::log(sum);
    }
  }

  // One head of one sequence. What it has of dk_rope is written to `partial` by the first head of a group and
  // added by the others.
  static void backward_head(const backward_args& args, const backward_scratch& work, index_t slot,
                            index_range tokens, index_t head, const view<acc, 2>& partial,
                            bool first_of_group) {
    const index_t qk = args.q.extent(2), v_dim = args.o.extent(2), rope = args.k_rope.extent(1),
                  nope = qk - rope;
    const index_t length = tokens.count(), stride = work.p.extent(2);
    acc *q = work.q[slot].data(), *d_o = work.d_o[slot].data();
    acc *p = work.p[slot].data(), *ds = work.ds[slot].data();
    acc *k = work.k[slot].data(), *dk = work.dk[slot].data();
    acc *v = work.v[slot].data(), *dv = work.dv[slot].data();
    acc* projection = work.projection[slot].data();
    for (index_t t = 0; t < length; ++t)
      projection[t] = cpu::dot_row<acc>(args.o[tokens.begin + t][head].data(),
                                        args.d_o[tokens.begin + t][head].data(), v_dim);
    std::fill_n(work.dq[slot].data(), length * qk, acc(0));
    for (index_t tile = 0; tile < length; tile += tile_rows) {
      const index_t keys = std::min(tile_rows, length - tile);
      load_keys(args, tokens.begin + tile, keys, head, k, v);
      std::fill_n(dk, keys * qk, acc(0));
      std::fill_n(dv, keys * v_dim, acc(0));
      for (index_t block = tile; block < length; block += block_rows) {
        const index_t count = std::min(block_rows, length - block), first = tokens.begin + block;
        const index_t full = std::min(block - tile, keys), edge = full < keys ? count : 0;
        acc* dq = work.dq[slot].data() + block * qk;
        cpu::load_rows(args.q, first, count, head, 0, qk, q, qk);
        cpu::load_rows(args.d_o, first, count, head, 0, v_dim, d_o, v_dim);
        cpu::product(no, yes, count, full + edge, qk, args.scale, q, qk, k, qk, 0, p, stride);
        cpu::product(no, yes, count, full + edge, v_dim, 1, d_o, v_dim, v, v_dim, 0, ds, stride);
        for (index_t r = 0; r < count; ++r)
          cpu::differentiate_row<acc>(p + r * stride, ds + r * stride, full + std::min(r + 1, edge),
                                      args.lse(head, first + r), projection[block + r], args.scale);
        cpu::product(yes, no, full, v_dim, count, 1, p, stride, d_o, v_dim, 1, dv, v_dim);
        cpu::product(yes, no, full, qk, count, 1, ds, stride, q, qk, 1, dk, qk);
        cpu::product(no, no, count, qk, full, 1, ds, stride, k, qk, 1, dq, qk);
        for (index_t r = 0; r < edge; ++r) {  // query r of the triangle, and key r
          const index_t diagonal = r * stride + full + r, key = full + r;
          cpu::add_weighted_rows(p + diagonal, stride, edge - r, d_o + r * v_dim, v_dim, dv + key * v_dim);
          cpu::add_weighted_rows(ds + diagonal, stride, edge - r, q + r * qk, qk, dk + key * qk);
          cpu::add_weighted_rows(ds + r * stride + full, 1, r + 1, k + full * qk, qk, dq + r * qk);
        }
      }
      for (index_t j = 0; j < keys; ++j) {
        const index_t t = tokens.begin + tile + j;
        cpu::copy_row<acc>(dk + j * qk, nope, args.dkv[t][head].data());
        cpu::copy_row<acc>(dv + j * v_dim, v_dim, args.dkv[t][head].data() + nope);
        for (index_t e = 0; e < rope; ++e)
          partial(t, e) = dk[j * qk + nope + e] + (first_of_group ? acc(0) : partial(t, e));
      }
    }
    for (index_t t = 0; t < length; ++t)
      cpu::copy_row<acc>(work.dq[slot].data() + t * qk, qk, args.dq[tokens.begin + t][head].data());
  }
};

}  // namespace dsv3::inline DSV3_ABI
