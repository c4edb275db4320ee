// SPDX-License-Identifier: MIT
// Multi-head latent attention (report, section 2.1.1): forward and backward of the training form, and
// decoding over the latent cache.
#pragma once

#include <dsv3/layer/cached_tokens.hpp>
#include <dsv3/layer/keep.hpp>
#include <dsv3/layer/kept_rows.hpp>
#include <dsv3/layer/latent_compression.hpp>
#include <dsv3/layer/linear.hpp>
#include <dsv3/op/attention/latent_cache.hpp>
#include <dsv3/op/attention/mla_attention.hpp>
#include <dsv3/op/attention/mla_decode.hpp>
#include <dsv3/op/linear/batched_gemm.hpp>
#include <dsv3/op/rope/decoupled_rope.hpp>
#include <dsv3/tensor/bundle.hpp>

namespace dsv3::inline DSV3_ABI {

struct mla_config {
  index_t hidden = 0, heads = 0;
  index_t qk_nope = 0, qk_rope = 0, v_dim = 0;  // channels per head: without position, rotary, of values
  index_t kv_rank = 0;                          // width of the latent that keys and values share
  index_t q_rank = 0;            // width of the query latent; 0: queries straight from the input
  double latent_epsilon = 1e-6;  // of the two latent norms
  rope_config rope;
  fp8_recipe recipe = {};  // for precisions with narrow operands

  index_t qk_dim() const { return qk_nope + qk_rope; }
  index_t q_width() const { return heads * qk_dim(); }
  index_t kv_width() const { return heads * (qk_nope + v_dim); }
  index_t o_width() const { return heads * v_dim; }
  /// Values that the cache keeps of a token.
  index_t cache_width() const { return kv_rank + qk_rope; }
  double softmax_scale() const { return rope.softmax_scale(qk_dim()); }

  /// Multiplications per head of `queries` tokens over `keys` cached rows. Expanding pays an up-projection
  /// per key, absorbing one per query and wider scores and values.
  double expanded_cost(index_t queries, index_t keys) const {
    const double q = static_cast<double>(queries), k = static_cast<double>(keys);
    return static_cast<double>(kv_rank * (qk_nope + v_dim)) * k +
           static_cast<double>(qk_dim() + v_dim) * q * k;
  }
  double absorbed_cost(index_t queries, index_t keys) const {
    const double q = static_cast<double>(queries), k = static_cast<double>(keys);
    return static_cast<double>(kv_rank * (qk_nope + v_dim)) * q +
           static_cast<double>(2 * kv_rank + qk_rope) * q * k;
  }
};

/// The weights of the layer, or anything with one value per weight. Names are the checkpoint's.
template <class Matrix, class Vector = Matrix>
struct mla_tensors {
  mla_config config;
  matrix_field<Matrix, 2> w_dq;  // [q_rank, hidden]
  view<Vector, 1> g_q;           // [q_rank]
  matrix_field<Matrix, 2>
      w_uq;  // [heads * (qk_nope + qk_rope), q_rank]      rows head by head, rotary rows last
  matrix_field<Matrix, 2>
      w_q;  // [heads * (qk_nope + qk_rope), hidden]      instead of the three where q_rank is 0
  matrix_field<Matrix, 2> w_dkv;  // [kv_rank + qk_rope, hidden]
  view<Vector, 1> g_kv;           // [kv_rank]
  matrix_field<Matrix, 2>
      w_ukv;  // [heads * (qk_nope + v_dim), kv_rank]       rows head by head, value rows last
  matrix_field<Matrix, 2> w_o;  // [hidden, heads * v_dim]

  template <class Visit, class... Self>
  static void each_field(const mla_config& c, Visit&& visit, Self&... self) {
    if (c.q_rank > 0) {
      visit("q_a_proj.weight", shape{c.q_rank, c.hidden}, self.w_dq...);
      visit("q_a_layernorm.weight", shape{c.q_rank}, self.g_q...);
      visit("q_b_proj.weight", shape{c.q_width(), c.q_rank}, self.w_uq...);
    } else {
      visit("q_proj.weight", shape{c.q_width(), c.hidden}, self.w_q...);
    }
    visit("kv_a_proj_with_mqa.weight", shape{c.kv_rank + c.qk_rope, c.hidden}, self.w_dkv...);
    visit("kv_a_layernorm.weight", shape{c.kv_rank}, self.g_kv...);
    visit("kv_b_proj.weight", shape{c.kv_width(), c.kv_rank}, self.w_ukv...);
    visit("o_proj.weight", shape{c.hidden, c.o_width()}, self.w_o...);
  }

  template <class M = Matrix>
    requires(!std::is_const_v<M>)
  operator mla_tensors<const M, const Vector>() const {
    return twin_of<mla_tensors<const M, const Vector>>(*this);
  }
};

template <precision P>
using mla_storage = mla_tensors<product_weight<P>, master<P>>;
template <precision P>
using mla_weights = mla_tensors<const product_weight<P>, const master<P>>;
template <precision P>
using mla_gradients = mla_tensors<gradient<P>>;

struct mla_activation_config {
  mla_config layer;
  index_t tokens = 0;
  keep kept = keep::everything;

  narrow_rows_config output() const {
    if (kept == keep::inputs) return {};
    return {tokens, layer.o_width(), layer.recipe.attention_output};
  }
};

/// What forward leaves for backward.
template <precision P>
struct mla_saved {
  mla_activation_config config;
  view<activation<P>, 2> a_q;      // [tokens, q_rank]               query latent before its norm
  view<accumulator<P>, 1> q_rstd;  // [tokens]
  view<activation<P>, 2> c_q;      // [tokens, q_rank]               after it; not kept by keep::attention
  view<activation<P>, 2>
      q;  // [tokens, heads * qk_dim]       rotated; kept by keep::attention if uncompressed
  view<activation<P>, 2> a_kv;  // [tokens, kv_rank + qk_rope]    latent before its norm, rotated shared key
  view<accumulator<P>, 1> kv_rstd;  // [tokens]
  view<activation<P>, 2> c_kv;      // [tokens, kv_rank]              not kept by keep::attention
  view<activation<P>, 2> kv;        // [tokens, heads * (qk_nope + v_dim)]   not kept by keep::attention
  kept_rows<P> o;                   // [tokens, heads * v_dim]
  view<accumulator<P>, 2> lse;      // [heads, tokens]

  template <class Visit, class... Self>
  static void each_field(const mla_activation_config& c, Visit&& visit, Self&... self) {
    const mla_config& l = c.layer;
    const bool any = c.kept != keep::inputs, all = c.kept == keep::everything, compressed = l.q_rank > 0;
    visit("a_q", shape_if(any && compressed, {c.tokens, l.q_rank}), self.a_q...);
    visit("q_rstd", shape_if(any && compressed, {c.tokens}), self.q_rstd...);
    visit("c_q", shape_if(all && compressed, {c.tokens, l.q_rank}), self.c_q...);
    visit("q", shape_if(all || (any && !compressed), {c.tokens, l.q_width()}), self.q...);
    visit("a_kv", shape_if(any, {c.tokens, l.kv_rank + l.qk_rope}), self.a_kv...);
    visit("kv_rstd", shape_if(any, {c.tokens}), self.kv_rstd...);
    visit("c_kv", shape_if(all, {c.tokens, l.kv_rank}), self.c_kv...);
    visit("kv", shape_if(all, {c.tokens, l.kv_width()}), self.kv...);
    each_part("o.", c.output(), visit, self.o...);
    visit("lse", shape_if(any, {l.heads, c.tokens}), self.lse...);
  }
};

/// Gradients of the layer's inner products, which the data half leaves for the weight half.
template <precision P>
struct mla_deltas {
  mla_activation_config config;
  view<activation<P>, 2> dq;                                          // [tokens, heads * qk_dim]
  view<activation<P>, 2> dc_q;                                        // [tokens, q_rank]
  view<activation<P>, 2> da_q;                                        // [tokens, q_rank]
  view<activation<P>, 2> dkv;                                         // [tokens, heads * (qk_nope + v_dim)]
  view<activation<P>, 2> dc_kv;                                       // [tokens, kv_rank]
  view<activation<P>, 2> da_kv;                                       // [tokens, kv_rank + qk_rope]
  kept_columns<P> dy_kept, dq_kept, da_q_kept, dkv_kept, da_kv_kept;  // as the weights' products read them

  template <class Visit, class... Self>
  static void each_field(const mla_activation_config& c, Visit&& visit, Self&... self) {
    const mla_config& l = c.layer;
    visit("dq", shape{c.tokens, l.q_width()}, self.dq...);
    visit("dc_q", shape_if(l.q_rank > 0, {c.tokens, l.q_rank}), self.dc_q...);
    visit("da_q", shape_if(l.q_rank > 0, {c.tokens, l.q_rank}), self.da_q...);
    visit("dkv", shape{c.tokens, l.kv_width()}, self.dkv...);
    visit("dc_kv", shape{c.tokens, l.kv_rank}, self.dc_kv...);
    visit("da_kv", shape{c.tokens, l.kv_rank + l.qk_rope}, self.da_kv...);
    const auto kept = [&](index_t width) { return kept_columns_config{c.tokens, width}; };
    each_part("dy_kept.", kept(l.hidden), visit, self.dy_kept...);
    each_part("dq_kept.", kept(l.q_width()), visit, self.dq_kept...);
    each_part("da_q_kept.", kept(l.q_rank), visit, self.da_q_kept...);
    each_part("dkv_kept.", kept(l.kv_width()), visit, self.dkv_kept...);
    each_part("da_kv_kept.", kept(l.kv_rank + l.qk_rope), visit, self.da_kv_kept...);
  }
};

/// u = MLA(x). The residual connection and the norm before the layer are the block's.
/// decode is forward for tokens that follow others: of those it sees what the latent cache kept, one row
/// (c, k_rope) per token for all heads, and it adds its own rows. Absorbed, it never expands a cached row:
///   q_nope · (w_uk c) = (w_ukᵀ q_nope) · c          Σ_j p_j (w_uv c_j) = w_uv Σ_j p_j c_j
template <precision P, layout_policy L = default_layout>
struct mla {
  mla_config config;

  struct forward_args {
    view<const activation<P>, 2> x;  // [tokens, hidden]
    mla_weights<P> weights;
    packed_sequences sequence;
    rope_table<const accumulator<P>> rope;
    view<activation<P>, 2> y;       // [tokens, hidden]    written
    mla_saved<P>* saved = nullptr;  // written unless null: inference keeps nothing
  };
  struct backward_data_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    mla_weights<P> weights;
    packed_sequences sequence;
    rope_table<const accumulator<P>> rope;
    const mla_saved<P>& saved;
    view<activation<P>, 2> dx;  // [tokens, hidden]    written
    mla_deltas<P>& deltas;      // written
  };
  struct backward_weights_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    view<const activation<P>, 2> x;   // [tokens, hidden]
    mla_weights<P> weights;
    const mla_saved<P>& saved;
    const mla_deltas<P>& deltas;
    mla_gradients<P>& gradients;  // added to, or written
    store into = store::add;
  };
  struct backward_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    view<const activation<P>, 2> x;   // [tokens, hidden]
    mla_weights<P> weights;
    packed_sequences sequence;
    rope_table<const accumulator<P>> rope;
    const mla_saved<P>& saved;
    view<activation<P>, 2> dx;    // [tokens, hidden]    written
    mla_gradients<P>& gradients;  // added to, or written
    store into = store::add;
  };

  struct decode_args {
    view<const activation<P>, 2> x;  // [tokens, hidden]
    mla_weights<P> weights;
    cached_tokens tokens;
    view<cache_element<P, L>, 3> cache;  // [pages, page_rows, width of a row]   the tokens' rows are written
    rope_table<const accumulator<P>> rope;
    view<activation<P>, 2> y;  // [tokens, hidden]    written
  };

  template <execution_context Ctx>
  void forward(Ctx& ctx, const forward_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const auto& w = args.weights;
    const mla_saved<P> s = full(ctx, args.saved, args.x.extent(0));
    const auto x = product().operand(ctx, args.x);
    if (compressed())
      compression().forward(ctx, x, query_weights(w), query_state(s));  // 1
    else
      product().forward(ctx, x, w.w_q, s.q);
    compression().forward(ctx, x, key_value_weights(w), key_value_state(s));       // 2
    rotate(ctx, rotary_query(s.q), args.sequence, args.rope, rotation::forward);   // 3
    rotate(ctx, rotary_key(s.a_kv), args.sequence, args.rope, rotation::forward);  // 4
    const rows o = s.o.buffer(ctx);
    op::mla_attention<P>::forward(ctx, {.q = per_head(s.q),
                                        .kv = per_head(s.kv),
                                        .k_rope = rotary_columns(s.a_kv),
                                        .sequence = args.sequence,
                                        .scale = config.softmax_scale(),
                                        .o = per_head(o),
                                        .lse = s.lse});  // 5
    if (args.saved != nullptr) s.o.keep(ctx, o, config.recipe.exchanged_scales);
    project(ctx, o, w, args.y);  // 6
  }

  template <execution_context Ctx>
  void decode(Ctx& ctx, const decode_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const auto& w = args.weights;
    const cached_tokens& t = args.tokens;
    const index_t tokens = args.x.extent(0);
    const rows q = buffer(ctx, tokens, config.q_width());
    const rows a_kv = buffer(ctx, tokens, config.cache_width()), c_kv = buffer(ctx, tokens, config.kv_rank);
    const rows o = buffer(ctx, tokens, config.o_width());
    const auto x = product().operand(ctx, args.x);
    if (compressed())
      compression().forward(
          ctx, x, query_weights(w),
          {buffer(ctx, tokens, config.q_rank), {}, buffer(ctx, tokens, config.q_rank), q});  // 1
    else
      product().forward(ctx, x, w.w_q, q);
    product().forward(ctx, x, w.w_dkv, a_kv);                                  // 2
    compression().normalize(ctx, key_value_weights(w), {a_kv, {}, c_kv, {}});  // 2
    rotate(ctx, rotary_query(q), t.queries, args.rope, rotation::forward);     // 3
    rotate(ctx, rotary_key(a_kv), t.queries, args.rope, rotation::forward);    // 4
    latent_cache::append(
        ctx,
        {.c = c_kv, .k_rope = rotary_columns(a_kv), .tokens = t.queries, .cache = t.rows_of(args.cache)});
    if (absorbs(t))
      attend_absorbed(ctx, args, q, o);  // 5
    else
      attend_expanded(ctx, args, q, o);
    project(ctx, o, w, args.y);  // 6
  }

  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const backward_data_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const auto& w = args.weights;
    const mla_saved<P> s = full(ctx, &args.saved, args.dy.extent(0));
    if (args.saved.c_kv.empty()) restore(ctx, w, args, s);
    mla_deltas<P>& d = args.deltas;
    {
      const scratch_frame inner{ctx.scratch};
      const auto d_o = ctx.scratch.template tensor<activation<P>>(args.dy.extent(0), config.o_width());
      product().backward_data(ctx, args.dy, w.w_o, d_o, store::write, d.dy_kept);  // 6'
      op::mla_attention<P>::backward(ctx, {.d_o = per_head(d_o),
                                           .q = per_head(s.q),
                                           .kv = per_head(s.kv),
                                           .k_rope = rotary_columns(s.a_kv),
                                           .o = per_head(s.o.load(ctx)),
                                           .lse = s.lse,
                                           .sequence = args.sequence,
                                           .scale = config.softmax_scale(),
                                           .dq = per_head(d.dq),
                                           .dkv = per_head(d.dkv),
                                           .dk_rope = rotary_columns(d.da_kv)});  // 5'
    }
    rotate(ctx, rotary_key(d.da_kv), args.sequence, args.rope, rotation::inverse);  // 4'
    rotate(ctx, rotary_query(d.dq), args.sequence, args.rope, rotation::inverse);   // 3'
    compression().backward_data(ctx, key_value_weights(w), key_value_state(s), key_value_deltas(d), args.dx,
                                store::write);  // 2'
    if (compressed())
      compression().backward_data(ctx, query_weights(w), query_state(s), query_deltas(d), args.dx,
                                  store::add);  // 1'
    else
      product().backward_data(ctx, d.dq, w.w_q, args.dx, store::add, d.dq_kept);
  }

  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, const backward_weights_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const auto& w = args.weights;
    const mla_saved<P> s = full(ctx, &args.saved, args.dy.extent(0));
    if (args.saved.c_kv.empty()) restore_latents(ctx, w, s);
    mla_gradients<P>& g = args.gradients;
    const mla_deltas<P>& d = args.deltas;
    product().backward_weights_plain(ctx, product().columns_of(args.dy, d.dy_kept), s.o.load(ctx), g.w_o,
                                     args.into);  // 6'
    const auto x = product().columns(ctx, product().operand(ctx, args.x));
    compression().backward_weights(ctx, x, key_value_weights(w), key_value_state(s), key_value_deltas(d),
                                   {.w_down = g.w_dkv, .gain = g.g_kv, .w_up = g.w_ukv}, args.into);  // 2'
    if (compressed())
      compression().backward_weights(ctx, x, query_weights(w), query_state(s), query_deltas(d),
                                     {.w_down = g.w_dq, .gain = g.g_q, .w_up = g.w_uq}, args.into);  // 1'
    else
      product().backward_weights(ctx, product().columns_of(d.dq, d.dq_kept), x, g.w_q, args.into);
  }

  template <execution_context Ctx>
  void backward(Ctx& ctx, const backward_args& args) const {
    const scratch_frame frame{ctx.scratch};
    auto deltas = ctx.scratch.template bundle<mla_deltas<P>>(args.saved.config);
    backward_data(ctx, {.dy = args.dy,
                        .weights = args.weights,
                        .sequence = args.sequence,
                        .rope = args.rope,
                        .saved = args.saved,
                        .dx = args.dx,
                        .deltas = deltas});
    backward_weights(ctx, {.dy = args.dy,
                           .x = args.x,
                           .weights = args.weights,
                           .saved = args.saved,
                           .deltas = deltas,
                           .gradients = args.gradients,
                           .into = args.into});
  }

 private:
  using compress = latent_compression<P>;
  using latent_cache = op::latent_cache<P, typename L::cache::row>;
  using mla_decode = op::mla_decode<P, typename L::cache::row>;
  using rows = view<activation<P>, 2>;

  bool compressed() const { return config.q_rank > 0; }
  linear<P> product() const { return linear<P>{config.recipe}; }
  compress compression() const { return {.epsilon = config.latent_epsilon, .product = product()}; }

  template <class Ctx>
  void project(Ctx& ctx, rows o, const mla_weights<P>& w, rows y) const {
    const scratch_frame frame{ctx.scratch};
    product().forward(ctx, product().operand(ctx, o, config.recipe.exchanged_scales), w.w_o, y);
  }

  template <class Ctx>
  static rows buffer(Ctx& ctx, index_t tokens, index_t columns) {
    return ctx.scratch.template tensor<activation<P>>(tokens, columns);
  }

  bool absorbs(const cached_tokens& t) const {
    if (t.form != attention_form::by_cost) return t.form == attention_form::absorbed;
    const index_t queries = t.queries.max_length, keys = t.keys.max_length;
    return config.absorbed_cost(queries, keys) <= config.expanded_cost(queries, keys);
  }

  // Rows [first, first + count) of every head of w_ukv: [heads, count, kv_rank].
  view<const weight<P>, 3> up_projections(view<const weight<P>, 2> w_ukv, index_t first,
                                          index_t count) const {
    const index_t stride = w_ukv.stride(0);
    return {w_ukv.data() + first * stride,
            {config.heads, count, config.kv_rank},
            {(config.qk_nope + config.v_dim) * stride, stride, 1}};
  }

  template <class Ctx>
  void attend_absorbed(Ctx& ctx, const decode_args& args, rows q, rows o) const {
    const scratch_frame frame{ctx.scratch};
    const auto q_latent =
        ctx.scratch.template tensor<activation<P>>(q.extent(0), config.heads, config.kv_rank);
    const auto z = ctx.scratch.template tensor<activation<P>>(q.extent(0), config.heads, config.kv_rank);
    const auto w_ukv = product().plain(ctx, args.weights.w_ukv);
    op::batched_gemm<P>::transposed(ctx, {.x = per_head(q).columns(0, config.qk_nope),
                                          .w = up_projections(w_ukv, 0, config.qk_nope),
                                          .y = q_latent});
    mla_decode::forward(ctx, {.q_latent = q_latent,
                              .q_rope = rotary_query(q),
                              .queries = args.tokens.queries,
                              .cache = args.tokens.rows_of(args.cache),
                              .scale = config.softmax_scale(),
                              .z = z});
    op::batched_gemm<P>::forward(
        ctx, {.x = z, .w = up_projections(w_ukv, config.qk_nope, config.v_dim), .y = per_head(o)});
  }

  template <class Ctx>
  void attend_expanded(Ctx& ctx, const decode_args& args, rows q, rows o) const {
    const scratch_frame frame{ctx.scratch};
    const index_t keys = args.tokens.keys.tokens();
    const rows c = buffer(ctx, keys, config.kv_rank), k_rope = buffer(ctx, keys, config.qk_rope);
    const rows kv = buffer(ctx, keys, config.kv_width());
    latent_cache::gather(
        ctx,
        {.cache = args.tokens.rows_of(args.cache), .tokens = args.tokens.keys, .c = c, .k_rope = k_rope});
    product().forward(ctx, product().operand(ctx, c), args.weights.w_ukv, kv);
    op::mla_attention<P>::forward(ctx, {.q = per_head(q),
                                        .kv = per_head(kv),
                                        .k_rope = k_rope,
                                        .sequence = args.tokens.queries,
                                        .scale = config.softmax_scale(),
                                        .o = per_head(o),
                                        .keys = args.tokens.keys});
  }

  template <class Ctx>
  mla_saved<P> full(Ctx& ctx, const mla_saved<P>* saved, index_t tokens) const {
    return complete(ctx, saved, mla_activation_config{config, tokens, keep::everything});
  }

  // Steps 1 to 3 again, from the latents: what keep::attention did not keep. The shared key is kept rotated.
  template <class Ctx, class Args>
  void restore(Ctx& ctx, const mla_weights<P>& w, const Args& args, const mla_saved<P>& s) const {
    restore_latents(ctx, w, s);
    compression().expand(ctx, key_value_weights(w), key_value_state(s), product().operand(ctx, s.c_kv));
    if (!compressed()) return;  // q itself was kept
    compression().expand(ctx, query_weights(w), query_state(s), product().operand(ctx, s.c_q));
    rotate(ctx, rotary_query(s.q), args.sequence, args.rope, rotation::forward);
  }
  template <class Ctx>
  void restore_latents(Ctx& ctx, const mla_weights<P>& w, const mla_saved<P>& s) const {
    if (compressed()) compression().normalize(ctx, query_weights(w), query_state(s));
    compression().normalize(ctx, key_value_weights(w), key_value_state(s));
  }

  template <class Ctx>
  void rotate(Ctx& ctx, view<activation<P>, 3> x, const packed_sequences& sequence,
              const rope_table<const accumulator<P>>& table, rotation direction) const {
    op::decoupled_rope<P, L::rope>::apply(
        ctx, {.x = x, .positions = sequence.positions, .table = table, .direction = direction});
  }

  template <class T>
  auto per_head(view<T, 2> x) const {
    return x.split_columns(config.heads > 0 ? x.extent(1) / config.heads : 0);
  }
  auto rotary_query(rows q) const { return per_head(q).columns(config.qk_nope, config.qk_dim()); }
  rows rotary_columns(rows a) const { return a.columns(config.kv_rank, config.kv_rank + config.qk_rope); }
  auto rotary_key(rows a) const { return rotary_columns(a).split_columns(config.qk_rope); }

  static typename compress::weights query_weights(const mla_weights<P>& w) { return {w.w_dq, w.g_q, w.w_uq}; }
  static typename compress::weights key_value_weights(const mla_weights<P>& w) {
    return {w.w_dkv, w.g_kv, w.w_ukv};
  }
  static typename compress::state query_state(const mla_saved<P>& s) { return {s.a_q, s.q_rstd, s.c_q, s.q}; }
  static typename compress::state key_value_state(const mla_saved<P>& s) {
    return {s.a_kv, s.kv_rstd, s.c_kv, s.kv};
  }
  static typename compress::deltas query_deltas(const mla_deltas<P>& d) {
    return {d.dq, d.dc_q, d.da_q, d.dq_kept, d.da_q_kept};
  }
  static typename compress::deltas key_value_deltas(const mla_deltas<P>& d) {
    return {d.dkv, d.dc_kv, d.da_kv, d.dkv_kept, d.da_kv_kept};
  }
};

}  // namespace dsv3::inline DSV3_ABI
