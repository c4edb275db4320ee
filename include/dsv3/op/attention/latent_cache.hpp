// SPDX-License-Identifier: MIT
// Writing rows of the latent cache, and reading them back packed.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/tensor/cache_row.hpp>
#include <dsv3/tensor/packed_sequences.hpp>
#include <dsv3/tensor/paged.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// A row of the cache is (c, k_rope): the latent after its norm, the shared key after its rotation.
///   append:  the tokens of sequence b become its rows lengths(b) - n .. lengths(b) - 1, n their number
///   gather:  the rows 0 .. n - 1 of sequence b become its packed tokens
/// Rows of cache_row::fp8 hold c in tiles of 128, tile_quantizer's with scales that are powers of two, and
/// k_rope rounded to BF16. They read as codes times scales, rounded to the activation.
template <precision P, class Row = cache_row::plain>
struct latent_cache {
  using element = typename Row::template element<activation<P>>;

  struct append_args {
    static constexpr const char* name = "latent_cache.append";
    view<const activation<P>, 2> c;       // [tokens, kv_rank]
    view<const activation<P>, 2> k_rope;  // [tokens, qk_rope]
    packed_sequences tokens;
    paged_view<element> cache;  // the appended rows are written
    status check() const { return check_rows(*this); }
    void outputs(auto&& visit) const { visit("cache", cache.pages); }
  };

  struct gather_args {
    static constexpr const char* name = "latent_cache.gather";
    paged_view<const element> cache;
    packed_sequences tokens;        // no sequence longer than its part of the cache
    view<activation<P>, 2> c;       // [tokens, kv_rank]    written
    view<activation<P>, 2> k_rope;  // [tokens, qk_rope]    written
    status check() const { return check_rows(*this); }
    void outputs(auto&& visit) const { visit("c", c), visit("k_rope", k_rope); }
  };

  template <execution_context Ctx>
  static void append(Ctx&, const append_args&);
  template <execution_context Ctx>
  static void gather(Ctx&, const gather_args&);

 private:
  // What append and gather ask for alike.
  template <class Args>
  static status check_rows(const Args& args) {
    return requirements{Args::name}
        .equal("k_rope", "tokens", args.k_rope.extent(0), "c", args.c.extent(0))
        .equal("tokens", "tokens", args.tokens.tokens(), "c", args.c.extent(0))
        .equal("cache.table", "sequences", args.cache.table.extent(0), "tokens", args.tokens.sequences())
        .equal("cache.lengths", "sequences", args.cache.lengths.extent(0), "tokens", args.tokens.sequences())
        .equal("cache", "columns", args.cache.pages.extent(2), Row::extent,
               Row::width(args.c.extent(1), args.k_rope.extent(1)))
        .present("c", args.c)
        .present("k_rope", args.k_rope)
        .verdict();
  }
};

template <precision P, class Row>
template <execution_context Ctx>
void latent_cache<P, Row>::append(Ctx& ctx, const append_args& args) {
  invoke<latent_cache>(ctx, args);
}
template <precision P, class Row>
template <execution_context Ctx>
void latent_cache<P, Row>::gather(Ctx& ctx, const gather_args& args) {
  invoke<latent_cache>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
