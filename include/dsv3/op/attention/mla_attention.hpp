// SPDX-License-Identifier: MIT
// The attention core of multi-head latent attention in its training form (report, section 2.1.1).
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/tensor/packed_sequences.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// Causal attention over packed sequences. With q = (q_nope, q_rope) and kv = (k_nope, v) side by side per
/// head, and one rotary key per token shared by all heads:
///   S[h,t,j] = scale · (q_nope[t,h] · k_nope[j,h] + q_rope[t,h] · k_rope[j])      j ≤ t of the same sequence
///   o[t,h]   = Σ_j P[h,t,j] v[j,h],   P = softmax_j S,   lse[h,t] = ln Σ_j exp S[h,t,j]
/// Backward, with D[t,h] = d_o[t,h] · o[t,h] and dS = P · (d_o · v − D):
///   dv[j,h] = Σ_t P d_o          dq_nope = scale Σ_j dS k_nope       dk_nope = scale Σ_t dS q_nope
///   dq_rope = scale Σ_j dS k_rope                                    dk_rope = scale Σ_h Σ_t dS q_rope
/// Softmax statistics and sums in the accumulator. qk_rope is the width of k_rope; qk_nope the rest of q.
/// Forward also takes more keys than queries: the queries of a sequence are then its last tokens, query i of
/// n over m keys sees the keys j ≤ m - n + i.
template <precision P>
struct mla_attention {
  struct forward_args {
    static constexpr const char* name = "mla_attention.forward";
    view<const activation<P>, 3> q;       // [tokens, heads, qk_nope + qk_rope]   rotated
    view<const activation<P>, 3> kv;      // [keys, heads, qk_nope + v_dim]
    view<const activation<P>, 2> k_rope;  // [keys, qk_rope]                      rotated
    packed_sequences sequence;            // of the queries
    double scale = 1;                     // softmax scale
    view<activation<P>, 3> o;             // [tokens, heads, v_dim]               written
    view<accumulator<P>, 2> lse = {};     // [heads, tokens]                      written when not empty
    packed_sequences keys = {};           // of kv and k_rope; empty: as the queries
    const packed_sequences& key_sequence() const { return keys.offsets.empty() ? sequence : keys; }
    status check() const {
      requirements need{name};
      need.equal("sequence", "tokens", sequence.tokens(), "q", q.extent(0))
          .equal("kv", "tokens", kv.extent(0), "key sequence", key_sequence().tokens())
          .equal("kv", "heads", kv.extent(1), "q", q.extent(1))
          .equal("k_rope", "tokens", k_rope.extent(0), "kv", kv.extent(0))
          .equal("keys", "sequences", key_sequence().sequences(), "sequence", sequence.sequences())
          .equal("o", "tokens", o.extent(0), "q", q.extent(0))
          .equal("o", "heads", o.extent(1), "q", q.extent(1))
          .equal("kv", "columns", kv.extent(2), "qk_nope + v_dim",
                 q.extent(2) - k_rope.extent(1) + o.extent(2))
          .that(q.extent(2) >= k_rope.extent(1), "q is narrower than k_rope")
          .present("q", q)
          .present("kv", kv)
          .present("k_rope", k_rope)
          .present("o", o);
      if (!lse.empty())
        need.equal("lse", "heads", lse.extent(0), "q", q.extent(1))
            .equal("lse", "tokens", lse.extent(1), "q", q.extent(0));
      return need.verdict();
    }
    void outputs(auto&& visit) const { visit("o", o), visit("lse", lse); }
  };

  struct backward_args {
    static constexpr const char* name = "mla_attention.backward";
    view<const activation<P>, 3> d_o;     // [tokens, heads, v_dim]
    view<const activation<P>, 3> q;       // [tokens, heads, qk_nope + qk_rope]
    view<const activation<P>, 3> kv;      // [tokens, heads, qk_nope + v_dim]
    view<const activation<P>, 2> k_rope;  // [tokens, qk_rope]
    view<const activation<P>, 3> o;       // [tokens, heads, v_dim]
    view<const accumulator<P>, 2> lse;    // [heads, tokens]
    packed_sequences sequence;
    double scale = 1;
    view<activation<P>, 3> dq;       // [tokens, heads, qk_nope + qk_rope]   written
    view<activation<P>, 3> dkv;      // [tokens, heads, qk_nope + v_dim]     written
    view<activation<P>, 2> dk_rope;  // [tokens, qk_rope]                    written
    status check() const {
      return requirements{name}
          .equal("kv", "tokens", kv.extent(0), "q", q.extent(0))
          .equal("kv", "heads", kv.extent(1), "q", q.extent(1))
          .equal("k_rope", "tokens", k_rope.extent(0), "q", q.extent(0))
          .equal("o", "tokens", o.extent(0), "q", q.extent(0))
          .equal("o", "heads", o.extent(1), "q", q.extent(1))
          .equal("d_o", "tokens", d_o.extent(0), "o", o.extent(0))
          .equal("d_o", "heads", d_o.extent(1), "o", o.extent(1))
          .equal("d_o", "columns", d_o.extent(2), "o", o.extent(2))
          .equal("lse", "heads", lse.extent(0), "q", q.extent(1))
          .equal("lse", "tokens", lse.extent(1), "q", q.extent(0))
          .equal("sequence", "tokens", sequence.tokens(), "q", q.extent(0))
          .equal("kv", "columns", kv.extent(2), "qk_nope + v_dim",
                 q.extent(2) - k_rope.extent(1) + o.extent(2))
          .that(q.extent(2) >= k_rope.extent(1), "q is narrower than k_rope")
          .equal("dq", "tokens", dq.extent(0), "q", q.extent(0))
          .equal("dq", "heads", dq.extent(1), "q", q.extent(1))
          .equal("dq", "columns", dq.extent(2), "q", q.extent(2))
          .equal("dkv", "tokens", dkv.extent(0), "kv", kv.extent(0))
          .equal("dkv", "heads", dkv.extent(1), "kv", kv.extent(1))
          .equal("dkv", "columns", dkv.extent(2), "kv", kv.extent(2))
          .equal("dk_rope", "tokens", dk_rope.extent(0), "k_rope", k_rope.extent(0))
          .equal("dk_rope", "columns", dk_rope.extent(1), "k_rope", k_rope.extent(1))
          .present("d_o", d_o)
          .present("q", q)
          .present("kv", kv)
          .present("k_rope", k_rope)
          .present("o", o)
          .present("lse", lse)
          .present("dq", dq)
          .present("dkv", dkv)
          .present("dk_rope", dk_rope)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("dq", dq), visit("dkv", dkv), visit("dk_rope", dk_rope); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void backward(Ctx&, const backward_args&);
};

template <precision P>
template <execution_context Ctx>
void mla_attention<P>::forward(Ctx& ctx, const forward_args& args) {
  invoke<mla_attention>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void mla_attention<P>::backward(Ctx& ctx, const backward_args& args) {
  invoke<mla_attention>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
