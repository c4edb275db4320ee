// SPDX-License-Identifier: MIT
// Appending to the latent cache and gathering from it on the CPU.
#pragma once

#include <dsv3/cpu/attention/cache_rows.hpp>
#include <dsv3/cpu/attention/sequences.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/op/attention/latent_cache.hpp>

#include <string>

namespace dsv3::inline DSV3_ABI {

template <class P, class Row>
struct implementation<op::latent_cache<P, Row>, backend::cpu> {
  using append_args = typename op::latent_cache<P, Row>::append_args;
  using gather_args = typename op::latent_cache<P, Row>::gather_args;

  template <class Ctx>
  static void run(Ctx& ctx, const append_args& args) {
    require_room(args);
    const index_t rank = args.c.extent(1), rope = args.k_rope.extent(1);
    each_token(ctx.threads, args.tokens, rank + rope, [&](index_t b, index_range tokens, index_t t) {
      const index_t row = args.cache.lengths(b) - (tokens.end - t);
      cpu::write_row(Row{}, args.c[t].data(), rank, args.k_rope[t].data(), rope,
                     args.cache.row(b, row).data());
    });
  }

  template <class Ctx>
  static void run(Ctx& ctx, const gather_args& args) {
    require_room(args);
    const index_t rank = args.c.extent(1), rope = args.k_rope.extent(1);
    each_token(ctx.threads, args.tokens, rank + rope, [&](index_t b, index_range tokens, index_t t) {
      cpu::read_row(Row{}, args.cache.row(b, t - tokens.begin).data(), rank, rope, args.c[t].data(),
                    args.k_rope[t].data());
    });
  }

 private:
  template <class Args>
  static void require_room(const Args& args) {
    cpu::require_offsets(args.tokens, Args::name);
    cpu::require_pages(args.cache, Args::name);
    for (index_t b = 0; b < args.tokens.sequences(); ++b)
      if (const index_t tokens = cpu::tokens_of(args.tokens, b).count(); tokens > args.cache.lengths(b))
        raise(std::string(Args::name) + ": sequence " + std::to_string(b) + " has " + std::to_string(tokens) +
              " tokens, its part of the cache has " + std::to_string(args.cache.lengths(b)) + " rows");
  }

  // body(sequence, its tokens, token); a thread gets at least some hundred kilobytes to move.
  template <class Body>
  static void each_token(int threads, const packed_sequences& sequences, index_t width, Body&& body) {
    const index_t grain = (index_t{1} << 16) / (width + 1) + 1;
    cpu::parallel_ranges(threads, sequences.tokens(), grain, [&](index_t begin, index_t end) {
      for (index_t b = 0; b < sequences.sequences(); ++b) {
        const index_range tokens = cpu::tokens_of(sequences, b);
        for (index_t t = std::max(begin, tokens.begin); t < std::min(end, tokens.end); ++t)
          body(b, tokens, t);
      }
    });
  }
};

}  // namespace dsv3::inline DSV3_ABI
