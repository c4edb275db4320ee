// SPDX-License-Identifier: MIT
// The attention core of multi-head latent attention in its absorbed form: few queries over the latent cache
// (report, section 2.1.1).
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/tensor/cache_row.hpp>
#include <dsv3/tensor/packed_sequences.hpp>
#include <dsv3/tensor/paged.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// Every head attends to the same cached rows (c, k_rope): the key up-projection is in the query, the value
/// up-projection is applied to the result.
///   S[h,t,j] = scale · (q_latent[t,h] · c[j] + q_rope[t,h] · k_rope[j])
///   z[t,h]   = Σ_j P[h,t,j] c[j],   P = softmax_j S,   lse[h,t] = ln Σ_j exp S[h,t,j]
/// The queries of a sequence are its last rows, which the cache already holds: query i of n over a cache of
/// length l sees the rows j ≤ l - n + i. Softmax statistics and sums in the accumulator.
template <precision P, class Row = cache_row::plain>
struct mla_decode {
  using element = typename Row::template element<activation<P>>;

  struct forward_args {
    static constexpr const char* name = "mla_decode.forward";
    view<const activation<P>, 3> q_latent;  // [tokens, heads, kv_rank]     absorbed
    view<const activation<P>, 3> q_rope;    // [tokens, heads, qk_rope]     rotated
    packed_sequences queries;               // which tokens are whose
    paged_view<const element> cache;        // rows (c, k_rope); see latent_cache
    double scale = 1;                       // softmax scale of the expanded form
    view<activation<P>, 3> z;               // [tokens, heads, kv_rank]     written
    view<accumulator<P>, 2> lse = {};       // [heads, tokens]              written when not empty
    status check() const {
      requirements need{name};
      need.equal("q_rope", "tokens", q_rope.extent(0), "q_latent", q_latent.extent(0))
          .equal("q_rope", "heads", q_rope.extent(1), "q_latent", q_latent.extent(1))
          .equal("z", "tokens", z.extent(0), "q_latent", q_latent.extent(0))
          .equal("z", "heads", z.extent(1), "q_latent", q_latent.extent(1))
          .equal("z", "columns", z.extent(2), "q_latent", q_latent.extent(2))
          .equal("queries", "tokens", queries.tokens(), "q_latent", q_latent.extent(0))
          .equal("cache.table", "sequences", cache.table.extent(0), "queries", queries.sequences())
          .equal("cache.lengths", "sequences", cache.lengths.extent(0), "queries", queries.sequences())
          .equal("cache", "columns", cache.pages.extent(2), Row::extent,
                 Row::width(q_latent.extent(2), q_rope.extent(2)))
          .present("q_latent", q_latent)
          .present("q_rope", q_rope)
          .present("z", z);
      if (!lse.empty())
        need.equal("lse", "heads", lse.extent(0), "q_latent", q_latent.extent(1))
            .equal("lse", "tokens", lse.extent(1), "q_latent", q_latent.extent(0));
      return need.verdict();
    }
    void outputs(auto&& visit) const { visit("z", z), visit("lse", lse); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
};

template <precision P, class Row>
template <execution_context Ctx>
void mla_decode<P, Row>::forward(Ctx& ctx, const forward_args& args) {
  invoke<mla_decode>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
