// SPDX-License-Identifier: MIT
// One transformer block: norm, attention, residual, norm, feed-forward, residual.
#pragma once

#include <dsv3/layer/mla.hpp>
#include <dsv3/layer/moe.hpp>
#include <dsv3/op/memory/add.hpp>
#include <dsv3/op/memory/fill.hpp>

namespace dsv3::inline DSV3_ABI {

enum class feed_forward { dense, experts };

struct block_config {
  mla_config attention;
  feed_forward kind = feed_forward::dense;
  mlp_config dense;    // where kind is dense
  moe_config experts;  // where kind is experts
  double epsilon = 1e-6;

  index_t hidden() const { return attention.hidden; }
};

template <class Matrix, class Vector = Matrix>
struct block_tensors {
  block_config config;
  view<Vector, 1> g_attention;  // [hidden]    norm before the attention
  mla_tensors<Matrix, Vector> attention;
  view<Vector, 1> g_feed_forward;       // [hidden]    norm before the feed-forward
  mlp_tensors<Matrix> dense;            // where config.kind is dense
  moe_tensors<Matrix, Vector> experts;  // where config.kind is experts

  template <class Visit, class... Self>
  static void each_field(const block_config& c, Visit&& visit, Self&... self) {
    visit("input_layernorm.weight", shape{c.hidden()}, self.g_attention...);
    each_part("self_attn.", c.attention, visit, self.attention...);
    visit("post_attention_layernorm.weight", shape{c.hidden()}, self.g_feed_forward...);
    if (c.kind == feed_forward::dense)
      each_part("mlp.", c.dense, visit, self.dense...);
    else
      each_part("mlp.", c.experts, visit, self.experts...);
  }

  template <class M = Matrix>
    requires(!std::is_const_v<M>)
  operator block_tensors<const M, const Vector>() const {
    return {config, g_attention, attention, g_feed_forward, dense, experts};
  }
};

template <precision P>
using block_storage = block_tensors<product_weight<P>, master<P>>;
template <precision P>
using block_weights = block_tensors<const product_weight<P>, const master<P>>;
template <precision P>
using block_gradients = block_tensors<gradient<P>>;

struct block_activation_config {
  block_config layer;
  permutation_config plan;  // where the layer has experts
  index_t tokens = 0, sequences = 0;
  keep kept = keep::everything;

  mla_activation_config attention() const { return {layer.attention, tokens, kept}; }
  mlp_activation_config dense() const { return {layer.dense, tokens, kept}; }
  moe_activation_config experts() const { return {layer.experts, plan, sequences, kept}; }
};

/// What forward leaves for backward, beside the block's input, which its caller keeps.
template <precision P>
struct block_saved {
  block_activation_config config;
  view<accumulator<P>, 1> x_rstd;  // [tokens]
  view<activation<P>, 2> n;        // [tokens, hidden]    normed input; kept by keep::everything only
  mla_saved<P> attention;
  view<activation<P>, 2> s;        // [tokens, hidden]    residual stream between the halves
  view<accumulator<P>, 1> s_rstd;  // [tokens]
  view<activation<P>, 2> m;        // [tokens, hidden]    normed s; kept by keep::everything only
  mlp_saved<P> dense;
  moe_saved<P> experts;

  template <class Visit, class... Self>
  static void each_field(const block_activation_config& c, Visit&& visit, Self&... self) {
    const bool any = c.kept != keep::inputs, all = c.kept == keep::everything;
    const index_t hidden = c.layer.hidden();
    visit("x_rstd", shape_if(any, {c.tokens}), self.x_rstd...);
    visit("n", shape_if(all, {c.tokens, hidden}), self.n...);
    each_part("attention.", c.attention(), visit, self.attention...);
    visit("s", shape_if(any, {c.tokens, hidden}), self.s...);
    visit("s_rstd", shape_if(any, {c.tokens}), self.s_rstd...);
    visit("m", shape_if(all, {c.tokens, hidden}), self.m...);
    if (c.layer.kind == feed_forward::dense)
      each_part("dense.", c.dense(), visit, self.dense...);
    else
      each_part("experts.", c.experts(), visit, self.experts...);
  }
};

template <precision P>
struct block_deltas {
  block_activation_config config;
  view<activation<P>, 2> dm;  // [tokens, hidden]
  view<activation<P>, 2> ds;  // [tokens, hidden]
  view<activation<P>, 2> dn;  // [tokens, hidden]
  mla_deltas<P> attention;
  mlp_deltas<P> dense;
  moe_deltas<P> experts;

  template <class Visit, class... Self>
  static void each_field(const block_activation_config& c, Visit&& visit, Self&... self) {
    const index_t hidden = c.layer.hidden();
    visit("dm", shape{c.tokens, hidden}, self.dm...);
    visit("ds", shape{c.tokens, hidden}, self.ds...);
    visit("dn", shape{c.tokens, hidden}, self.dn...);
    each_part("attention.", c.attention(), visit, self.attention...);
    if (c.layer.kind == feed_forward::dense)
      each_part("dense.", c.dense(), visit, self.dense...);
    else
      each_part("experts.", c.experts(), visit, self.experts...);
  }
};

/// s = x + MLA(RMSNorm(x))          y = s + FeedForward(RMSNorm(s))
template <precision P, layout_policy L = default_layout>
struct block {
  block_config config;
  any_communicator experts_among = {};  // the ranks that share experts

  /// What a batch means to a block, besides its input.
  struct batch_args {
    packed_sequences sequence;
    rope_table<const accumulator<P>> rope;
    view<const master<P>, 1> bias = {};  // [experts]       of this block's router; empty for a dense block
    balance_options balance = {};
  };
  struct forward_args {
    view<const activation<P>, 2> x;  // [tokens, hidden]
    block_weights<P> weights;
    batch_args batch;
    view<activation<P>, 2> y;         // [tokens, hidden]    written
    view<double, 1> balance_loss;     // [1]                 added to
    view<std::int64_t, 1> load = {};  // [experts]           added to when not empty
    block_saved<P>* saved = nullptr;  // written unless null
  };
  struct backward_data_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    view<const activation<P>, 2> x;   // [tokens, hidden]
    block_weights<P> weights;
    batch_args batch;  // as forward's; balance.coefficient times the gradient that reaches the loss
    const block_saved<P>& saved;
    view<activation<P>, 2> dx;  // [tokens, hidden]    written
    block_deltas<P>& deltas;    // written
  };
  struct backward_weights_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    view<const activation<P>, 2> x;   // [tokens, hidden]
    block_weights<P> weights;
    batch_args batch;
    const block_saved<P>& saved;
    const block_deltas<P>& deltas;
    block_gradients<P>& gradients;  // added to, or written
    store into = store::add;
  };
  struct backward_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    view<const activation<P>, 2> x;   // [tokens, hidden]
    block_weights<P> weights;
    batch_args batch;
    const block_saved<P>& saved;
    view<activation<P>, 2> dx;      // [tokens, hidden]    written
    block_gradients<P>& gradients;  // added to, or written
    store into = store::add;
  };
  struct decode_args {
    view<const activation<P>, 2> x;  // [tokens, hidden]
    block_weights<P> weights;
    cached_tokens tokens;
    view<cache_element<P, L>, 3> cache;  // [pages, page_rows, width of a row]   the tokens' rows are written
    rope_table<const accumulator<P>> rope;
    view<const master<P>, 1> bias =
        {};                    // [experts]           of this block's router; empty for a dense block
    view<activation<P>, 2> y;  // [tokens, hidden]    written
  };

  block_activation_config activation_config(index_t tokens, index_t sequences, keep kept) const {
    block_activation_config c{config, {}, tokens, sequences, kept};
    if (has_experts()) c.plan = experts().exchange().plan_config(tokens);
    return c;
  }

  template <execution_context Ctx>
  void forward(Ctx& ctx, const forward_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const auto& w = args.weights;
    const index_t tokens = args.x.extent(0), hidden = config.hidden();
    const bool keeps = args.saved != nullptr && args.saved->config.kept != keep::inputs;
    block_saved<P> s = keeps ? *args.saved : block_saved<P>{};
    const auto u = ctx.scratch.template tensor<activation<P>>(tokens, hidden);  // output of each half
    if (s.n.empty()) s.n = ctx.scratch.template tensor<activation<P>>(tokens, hidden);
    if (s.m.empty()) s.m = ctx.scratch.template tensor<activation<P>>(tokens, hidden);
    if (s.s.empty()) s.s = ctx.scratch.template tensor<activation<P>>(tokens, hidden);
    op::rms_norm<P>::forward(
        ctx,
        {.x = args.x, .gain = w.g_attention, .y = s.n, .rstd = s.x_rstd, .epsilon = config.epsilon});  // 1
    attention().forward(ctx, {.x = s.n,
                              .weights = w.attention,
                              .sequence = args.batch.sequence,
                              .rope = args.batch.rope,
                              .y = u,
                              .saved = keeps ? &s.attention : nullptr});  // 2
    op::rms_norm<P>::forward(ctx, {.x = u,
                                   .gain = w.g_feed_forward,
                                   .y = s.m,
                                   .rstd = s.s_rstd,
                                   .residual = args.x,
                                   .sum = s.s,
                                   .epsilon = config.epsilon});  // 3
    if (has_experts())
      experts().forward(ctx, {.x = s.m,
                              .weights = w.experts,
                              .bias = args.batch.bias,
                              .sequence = args.batch.sequence,
                              .balance = args.batch.balance,
                              .y = u,
                              .balance_loss = args.balance_loss,
                              .load = args.load,
                              .saved = keeps ? &s.experts : nullptr});  // 4
    else
      dense().forward(ctx, {.x = s.m, .weights = w.dense, .y = u, .saved = keeps ? &s.dense : nullptr});
    op::add<P>::forward(ctx, {.a = s.s, .b = u, .y = args.y});  // 5
  }

  /// forward for tokens that follow others, whose latent rows lie in the cache.
  template <execution_context Ctx>
  void decode(Ctx& ctx, const decode_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const auto& w = args.weights;
    const auto stream = [&] {
      return ctx.scratch.template tensor<activation<P>>(args.x.extent(0), config.hidden());
    };
    const auto n = stream(), u = stream(), s = stream();
    op::rms_norm<P>::forward(ctx,
                             {.x = args.x, .gain = w.g_attention, .y = n, .epsilon = config.epsilon});  // 1
    attention().decode(ctx, {.x = n,
                             .weights = w.attention,
                             .tokens = args.tokens,
                             .cache = args.cache,
                             .rope = args.rope,
                             .y = u});  // 2
    op::rms_norm<P>::forward(ctx, {.x = u,
                                   .gain = w.g_feed_forward,
                                   .y = n,
                                   .residual = args.x,
                                   .sum = s,
                                   .epsilon = config.epsilon});  // 3
    if (has_experts())
      experts().forward(ctx, {.x = n,
                              .weights = w.experts,
                              .bias = args.bias,
                              .sequence = args.tokens.queries,
                              .balance = {},
                              .y = u,
                              .balance_loss = {}});  // 4
    else
      dense().forward(ctx, {.x = n, .weights = w.dense, .y = u});
    op::add<P>::forward(ctx, {.a = s, .b = u, .y = args.y});  // 5
  }

  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const backward_data_args& args) const {
    const scratch_frame frame{ctx.scratch};
    data_half(ctx, args, restored(ctx, args));
  }

  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, const backward_weights_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const block_saved<P> s = restored(ctx, args);
    weight_half(ctx, args, s);
    gain_half(ctx, args, s);
  }

  template <execution_context Ctx>
  void backward(Ctx& ctx, const backward_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const block_saved<P> s = restored(ctx, args);  // once for both halves
    const block_gradients<P>& g = args.gradients;
    auto deltas = ctx.scratch.template bundle<block_deltas<P>>(s.config);
    data_half(ctx,
              backward_data_args{.dy = args.dy,
                                 .x = args.x,
                                 .weights = args.weights,
                                 .batch = args.batch,
                                 .saved = s,
                                 .dx = args.dx,
                                 .deltas = deltas},
              s, {g.g_attention, g.g_feed_forward, args.into});
    weight_half(ctx,
                backward_weights_args{.dy = args.dy,
                                      .x = args.x,
                                      .weights = args.weights,
                                      .batch = args.batch,
                                      .saved = s,
                                      .deltas = deltas,
                                      .gradients = args.gradients,
                                      .into = args.into},
                s);
  }

 private:
  // Gradients of the norms' gains: made in the pass that makes dx where both halves run.
  struct gain_gradients {
    view<gradient<P>, 1> attention = {}, feed_forward = {};
    store into = store::add;
  };

  bool has_experts() const { return config.kind == feed_forward::experts; }
  mla<P, L> attention() const { return {config.attention}; }
  mlp<P> dense() const { return {config.dense}; }
  moe<P, L> experts() const { return {config.experts, experts_among}; }

  // What backward reads: as saved; with the norms' outputs computed again; or the whole block forward once
  // more, in scratch. The load is not counted a second time.
  template <class Ctx, class Args>
  block_saved<P> restored(Ctx& ctx, const Args& args) const {
    const auto& w = args.weights;
    const block_activation_config& c = args.saved.config;
    if (c.kept == keep::inputs) {
      block_activation_config all = c;
      all.kept = keep::everything;
      auto s = ctx.scratch.template bundle<block_saved<P>>(all);
      const scratch_frame frame{ctx.scratch};
      const auto y = ctx.scratch.template tensor<activation<P>>(c.tokens, config.hidden());
      const auto discarded = ctx.scratch.template tensor<double>(1);  // this balance loss was counted before
      op::fill<double>::constant(ctx, {.y = discarded, .value = 0});
      forward(
          ctx,
          {.x = args.x, .weights = w, .batch = args.batch, .y = y, .balance_loss = discarded, .saved = &s});
      return s;
    }
    block_saved<P> s = args.saved;
    if (s.n.empty()) {
      s.n = ctx.scratch.template tensor<activation<P>>(c.tokens, config.hidden());
      s.m = ctx.scratch.template tensor<activation<P>>(c.tokens, config.hidden());
      op::rms_norm<P>::forward(ctx,
                               {.x = args.x, .gain = w.g_attention, .y = s.n, .epsilon = config.epsilon});
      op::rms_norm<P>::forward(ctx,
                               {.x = s.s, .gain = w.g_feed_forward, .y = s.m, .epsilon = config.epsilon});
    }
    return s;
  }

  template <class Ctx>
  void data_half(Ctx& ctx, const backward_data_args& args, const block_saved<P>& s,
                 const gain_gradients& gains = {}) const {
    const auto& w = args.weights;
    block_deltas<P>& d = args.deltas;
    if (has_experts())
      experts().backward_data(ctx, {.dy = args.dy,
                                    .weights = w.experts,
                                    .sequence = args.batch.sequence,
                                    .balance = args.batch.balance,
                                    .saved = s.experts,
                                    .x = s.m,
                                    .dx = d.dm,
                                    .deltas = d.experts});  // 4'
    else
      dense().backward_data(
          ctx, {.dy = args.dy, .weights = w.dense, .saved = s.dense, .dx = d.dm, .deltas = d.dense});
    op::rms_norm<P>::backward(ctx, {.dy = d.dm,
                                    .x = s.s,
                                    .gain = w.g_feed_forward,
                                    .rstd = s.s_rstd,
                                    .dx = d.ds,
                                    .dgain = gains.feed_forward,
                                    .d_residual = args.dy,
                                    .into = gains.into});  // 5' 3'
    attention().backward_data(ctx, {.dy = d.ds,
                                    .weights = w.attention,
                                    .sequence = args.batch.sequence,
                                    .rope = args.batch.rope,
                                    .saved = s.attention,
                                    .dx = d.dn,
                                    .deltas = d.attention});  // 2'
    op::rms_norm<P>::backward(ctx, {.dy = d.dn,
                                    .x = args.x,
                                    .gain = w.g_attention,
                                    .rstd = s.x_rstd,
                                    .dx = args.dx,
                                    .dgain = gains.attention,
                                    .d_residual = d.ds,
                                    .into = gains.into});  // 1'
  }

  template <class Ctx>
  void weight_half(Ctx& ctx, const backward_weights_args& args, const block_saved<P>& s) const {
    const auto& w = args.weights;
    const block_deltas<P>& d = args.deltas;
    block_gradients<P>& g = args.gradients;
    if (has_experts())
      experts().backward_weights(ctx, {.dy = args.dy,
                                       .x = s.m,
                                       .saved = s.experts,
                                       .deltas = d.experts,
                                       .gradients = g.experts,
                                       .into = args.into});  // 4'
    else
      dense().backward_weights(ctx, {.dy = args.dy,
                                     .x = s.m,
                                     .saved = s.dense,
                                     .deltas = d.dense,
                                     .gradients = g.dense,
                                     .into = args.into});
    attention().backward_weights(ctx, {.dy = d.ds,
                                       .x = s.n,
                                       .weights = w.attention,
                                       .saved = s.attention,
                                       .deltas = d.attention,
                                       .gradients = g.attention,
                                       .into = args.into});  // 2'
  }
  template <class Ctx>
  void gain_half(Ctx& ctx, const backward_weights_args& args, const block_saved<P>& s) const {
    const auto& w = args.weights;
    const block_deltas<P>& d = args.deltas;
    const block_gradients<P>& g = args.gradients;
    op::rms_norm<P>::backward(ctx, {.dy = d.dm,
                                    .x = s.s,
                                    .gain = w.g_feed_forward,
                                    .rstd = s.s_rstd,
                                    .dgain = g.g_feed_forward,
                                    .into = args.into});  // 3'
    op::rms_norm<P>::backward(ctx, {.dy = d.dn,
                                    .x = args.x,
                                    .gain = w.g_attention,
                                    .rstd = s.x_rstd,
                                    .dgain = g.g_attention,
                                    .into = args.into});  // 1'
  }
};

}  // namespace dsv3::inline DSV3_ABI
