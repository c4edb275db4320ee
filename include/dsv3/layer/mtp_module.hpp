// SPDX-License-Identifier: MIT
// A multi-token-prediction module (report, section 2.2): one more block that predicts one token further
// ahead.
#pragma once

#include <dsv3/layer/block.hpp>
#include <dsv3/op/embedding/embedding.hpp>
#include <dsv3/op/linear/gemm.hpp>

namespace dsv3::inline DSV3_ABI {

/// Embedding and output head are the main model's; everything here is the module's own.
/// Product is what the block's matrices consist of.
template <class Matrix, class Vector = Matrix, class Product = Matrix>
struct mtp_tensors {
  block_config config;
  view<Vector, 1> g_embedding;  // [hidden]               norm of the embedded token
  view<Vector, 1> g_hidden;     // [hidden]               norm of the previous depth's representation
  view<Matrix, 2> w_eh;         // [hidden, 2 * hidden]   columns: embedding first, representation second
  block_tensors<Product, Vector> block;
  view<Vector, 1> g_head;  // [hidden]               norm before the shared head

  template <class Visit, class... Self>
  static void each_field(const block_config& c, Visit&& visit, Self&... self) {
    const index_t hidden = c.hidden();
    visit("enorm.weight", shape{hidden}, self.g_embedding...);
    visit("hnorm.weight", shape{hidden}, self.g_hidden...);
    visit("eh_proj.weight", shape{hidden, 2 * hidden}, self.w_eh...);
    each_part("", c, visit, self.block...);
    visit("shared_head.norm.weight", shape{hidden}, self.g_head...);
  }

  template <class M = Matrix>
    requires(!std::is_const_v<M>)
  operator mtp_tensors<const M, const Vector, const Product>() const {
    return {config, g_embedding, g_hidden, w_eh, block, g_head};
  }
};

template <precision P>
using mtp_storage = mtp_tensors<weight<P>, master<P>, product_weight<P>>;
template <precision P>
using mtp_weights = mtp_tensors<const weight<P>, const master<P>, const product_weight<P>>;
template <precision P>
using mtp_gradients = mtp_tensors<gradient<P>>;

/// What forward leaves for backward. The block's input x, its output y and the head's input stay under every
/// policy.
template <precision P>
struct mtp_saved {
  block_activation_config config;
  view<activation<P>, 2> e;        // [tokens, hidden]       embedded tokens
  view<accumulator<P>, 1> e_rstd;  // [tokens]
  view<accumulator<P>, 1> h_rstd;  // [tokens]
  view<activation<P>, 2> pair;     // [tokens, 2 * hidden]   both norms' outputs
  view<activation<P>, 2> x;        // [tokens, hidden]
  block_saved<P> block;
  view<activation<P>, 2> y;        // [tokens, hidden]       this depth's representation
  view<accumulator<P>, 1> y_rstd;  // [tokens]
  view<activation<P>, 2> normed;   // [tokens, hidden]       what the head reads

  template <class Visit, class... Self>
  static void each_field(const block_activation_config& c, Visit&& visit, Self&... self) {
    const index_t hidden = c.layer.hidden();
    visit("e", shape{c.tokens, hidden}, self.e...);
    visit("e_rstd", shape{c.tokens}, self.e_rstd...);
    visit("h_rstd", shape{c.tokens}, self.h_rstd...);
    visit("pair", shape{c.tokens, 2 * hidden}, self.pair...);
    visit("x", shape{c.tokens, hidden}, self.x...);
    each_part("block.", c, visit, self.block...);
    visit("y", shape{c.tokens, hidden}, self.y...);
    visit("y_rstd", shape{c.tokens}, self.y_rstd...);
    visit("normed", shape{c.tokens, hidden}, self.normed...);
  }
};

template <precision P>
struct mtp_deltas {
  block_activation_config config;
  view<activation<P>, 2> dy;     // [tokens, hidden]
  view<activation<P>, 2> dx;     // [tokens, hidden]
  view<activation<P>, 2> dpair;  // [tokens, 2 * hidden]
  view<activation<P>, 2> de;     // [tokens, hidden]
  block_deltas<P> block;

  template <class Visit, class... Self>
  static void each_field(const block_activation_config& c, Visit&& visit, Self&... self) {
    const index_t hidden = c.layer.hidden();
    visit("dy", shape{c.tokens, hidden}, self.dy...);
    visit("dx", shape{c.tokens, hidden}, self.dx...);
    visit("dpair", shape{c.tokens, 2 * hidden}, self.dpair...);
    visit("de", shape{c.tokens, hidden}, self.de...);
    each_part("block.", c, visit, self.block...);
  }
};

/// x = w_eh [RMSNorm(embedding(ids)) ; RMSNorm(h)]       y = block(x)       normed = RMSNorm(y)
/// The report writes the concatenation the other way round (eq. 21); the released weights have the embedding
/// first.
template <precision P, layout_policy L = default_layout>
struct mtp_module {
  block_config config;
  any_communicator experts_among = {};  // the ranks that share experts

  using batch_args = typename block<P, L>::batch_args;
  struct forward_args {
    view<const activation<P>, 2> h;      // [tokens, hidden]    representation of the previous depth
    view<const std::int32_t, 1> ids;     // [tokens]            the token one further than that depth read
    view<const weight<P>, 2> embedding;  // [vocab, hidden]     the main model's
    mtp_weights<P> weights;
    batch_args batch;
    view<double, 1> balance_loss;     // [1]                 added to
    view<std::int64_t, 1> load = {};  // [experts]           added to when not empty
    mtp_saved<P>& saved;              // written; y and normed are the results
  };
  struct backward_data_args {
    view<const activation<P>, 2> d_normed;  // [tokens, hidden]    from the head
    view<const activation<P>, 2> dy = {};   // [tokens, hidden]    from the next depth; none when empty
    view<const activation<P>, 2> h;         // [tokens, hidden]
    mtp_weights<P> weights;
    batch_args batch;
    const mtp_saved<P>& saved;
    view<activation<P>, 2> dh;  // [tokens, hidden]    written
    mtp_deltas<P>& deltas;      // written
  };
  struct backward_weights_args {
    view<const activation<P>, 2> d_normed;  // [tokens, hidden]
    view<const activation<P>, 2> h;         // [tokens, hidden]
    view<const std::int32_t, 1> ids;        // [tokens]
    mtp_weights<P> weights;
    batch_args batch;
    const mtp_saved<P>& saved;
    const mtp_deltas<P>& deltas;
    mtp_gradients<P>& gradients;       // added to, or written
    view<gradient<P>, 2> d_embedding;  // [vocab, hidden]     added to
    store into = store::add;           // of gradients
  };
  struct backward_args {
    view<const activation<P>, 2> d_normed;  // [tokens, hidden]
    view<const activation<P>, 2> dy = {};   // [tokens, hidden]
    view<const activation<P>, 2> h;         // [tokens, hidden]
    view<const std::int32_t, 1> ids;        // [tokens]
    mtp_weights<P> weights;
    batch_args batch;
    const mtp_saved<P>& saved;
    view<activation<P>, 2> dh;         // [tokens, hidden]    written
    mtp_gradients<P>& gradients;       // added to, or written
    view<gradient<P>, 2> d_embedding;  // [vocab, hidden]     added to
    store into = store::add;           // of gradients
  };

  struct decode_args {
    view<const activation<P>, 2> h;      // [tokens, hidden]
    view<const std::int32_t, 1> ids;     // [tokens]
    view<const weight<P>, 2> embedding;  // [vocab, hidden]
    mtp_weights<P> weights;
    cached_tokens tokens;
    view<cache_element<P, L>, 3> cache;  // [pages, page_rows, width of a row]   the tokens' rows are written
    rope_table<const accumulator<P>> rope;
    view<const master<P>, 1> bias = {};  // [experts]
    view<activation<P>, 2> y;            // [tokens, hidden]    written: what the next depth reads
    view<activation<P>, 2> normed;       // [tokens, hidden]    written: what the head reads
  };

  template <execution_context Ctx>
  void forward(Ctx& ctx, const forward_args& args) const {
    const auto& w = args.weights;
    mtp_saved<P>& s = args.saved;
    op::embedding<P>::forward(ctx, {.ids = args.ids, .table = args.embedding, .y = s.e});  // 1
    norm(ctx, s.e, w.g_embedding, left(s.pair), s.e_rstd);                                 // 2
    norm(ctx, args.h, w.g_hidden, right(s.pair), s.h_rstd);                                // 3
    op::gemm<P>::forward(ctx, {.x = s.pair, .w = w.w_eh, .y = s.x});                       // 4
    inner().forward(ctx, {.x = s.x,
                          .weights = w.block,
                          .batch = args.batch,
                          .y = s.y,
                          .balance_loss = args.balance_loss,
                          .load = args.load,
                          .saved = &s.block});     // 5
    norm(ctx, s.y, w.g_head, s.normed, s.y_rstd);  // 6
  }

  /// forward for tokens that follow others, whose latent rows lie in this module's cache.
  template <execution_context Ctx>
  void decode(Ctx& ctx, const decode_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const auto& w = args.weights;
    const index_t tokens = args.h.extent(0), hidden = config.hidden();
    const auto x = ctx.scratch.template tensor<activation<P>>(tokens, hidden);
    const auto pair = ctx.scratch.template tensor<activation<P>>(tokens, 2 * hidden);
    op::embedding<P>::forward(ctx, {.ids = args.ids, .table = args.embedding, .y = x});  // 1
    norm(ctx, x, w.g_embedding, left(pair), {});                                         // 2
    norm(ctx, args.h, w.g_hidden, right(pair), {});                                      // 3
    op::gemm<P>::forward(ctx, {.x = pair, .w = w.w_eh, .y = x});                         // 4
    inner().decode(ctx, {.x = x,
                         .weights = w.block,
                         .tokens = args.tokens,
                         .cache = args.cache,
                         .rope = args.rope,
                         .bias = args.bias,
                         .y = args.y});            // 5
    norm(ctx, args.y, w.g_head, args.normed, {});  // 6
  }

  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const backward_data_args& args) const {
    begin_data_half(ctx, args);
    inner().backward_data(ctx, {.dy = args.deltas.dy,
                                .x = args.saved.x,
                                .weights = args.weights.block,
                                .batch = args.batch,
                                .saved = args.saved.block,
                                .dx = args.deltas.dx,
                                .deltas = args.deltas.block});  // 5'
    end_data_half(ctx, args);
  }

  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, const backward_weights_args& args) const {
    inner().backward_weights(ctx, {.dy = args.deltas.dy,
                                   .x = args.saved.x,
                                   .weights = args.weights.block,
                                   .batch = args.batch,
                                   .saved = args.saved.block,
                                   .deltas = args.deltas.block,
                                   .gradients = args.gradients.block,
                                   .into = args.into});  // 5'
    own_weights(ctx, args);
  }

  template <execution_context Ctx>
  void backward(Ctx& ctx, const backward_args& args) const {
    const scratch_frame frame{ctx.scratch};
    auto deltas = ctx.scratch.template bundle<mtp_deltas<P>>(args.saved.config);
    const backward_data_args data{.d_normed = args.d_normed,
                                  .dy = args.dy,
                                  .h = args.h,
                                  .weights = args.weights,
                                  .batch = args.batch,
                                  .saved = args.saved,
                                  .dh = args.dh,
                                  .deltas = deltas};
    begin_data_half(ctx, data);
    inner().backward(ctx, {.dy = deltas.dy,
                           .x = args.saved.x,
                           .weights = args.weights.block,
                           .batch = args.batch,
                           .saved = args.saved.block,
                           .dx = deltas.dx,
                           .gradients = args.gradients.block,
                           .into = args.into});
    end_data_half(ctx, data);
    own_weights(ctx, {.d_normed = args.d_normed,
                      .h = args.h,
                      .ids = args.ids,
                      .weights = args.weights,
                      .batch = args.batch,
                      .saved = args.saved,
                      .deltas = deltas,
                      .gradients = args.gradients,
                      .d_embedding = args.d_embedding,
                      .into = args.into});
  }

 private:
  block<P, L> inner() const { return {config, experts_among}; }

  template <class Rows>
  static auto left(const Rows& pair) {
    return pair.columns(0, pair.extent(1) / 2);
  }
  template <class Rows>
  static auto right(const Rows& pair) {
    return pair.columns(pair.extent(1) / 2, pair.extent(1));
  }

  template <class Ctx>
  void norm(Ctx& ctx, view<const activation<P>, 2> x, view<const master<P>, 1> gain, view<activation<P>, 2> y,
            view<accumulator<P>, 1> rstd) const {
    op::rms_norm<P>::forward(ctx, {.x = x, .gain = gain, .y = y, .rstd = rstd, .epsilon = config.epsilon});
  }

  template <class Ctx>
  void begin_data_half(Ctx& ctx, const backward_data_args& args) const {
    const auto& s = args.saved;
    op::rms_norm<P>::backward(ctx, {.dy = args.d_normed,
                                    .x = s.y,
                                    .gain = args.weights.g_head,
                                    .rstd = s.y_rstd,
                                    .dx = args.deltas.dy,
                                    .d_residual = args.dy});  // 6'
  }
  template <class Ctx>
  void end_data_half(Ctx& ctx, const backward_data_args& args) const {
    const mtp_saved<P>& s = args.saved;
    const mtp_weights<P>& w = args.weights;
    const mtp_deltas<P>& d = args.deltas;
    op::gemm<P>::backward_data(ctx, {.dy = d.dx, .w = w.w_eh, .dx = d.dpair});  // 4'
    op::rms_norm<P>::backward(
        ctx, {.dy = right(d.dpair), .x = args.h, .gain = w.g_hidden, .rstd = s.h_rstd, .dx = args.dh});  // 3'
    op::rms_norm<P>::backward(
        ctx, {.dy = left(d.dpair), .x = s.e, .gain = w.g_embedding, .rstd = s.e_rstd, .dx = d.de});  // 2'
  }
  template <class Ctx>
  void own_weights(Ctx& ctx, const backward_weights_args& args) const {
    const mtp_saved<P>& s = args.saved;
    const mtp_weights<P>& w = args.weights;
    const mtp_deltas<P>& d = args.deltas;
    const mtp_gradients<P>& g = args.gradients;
    op::rms_norm<P>::backward(ctx, {.dy = args.d_normed,
                                    .x = s.y,
                                    .gain = w.g_head,
                                    .rstd = s.y_rstd,
                                    .dgain = g.g_head,
                                    .into = args.into});                                             // 6'
    op::gemm<P>::backward_weights(ctx, {.dy = d.dx, .x = s.pair, .dw = g.w_eh, .into = args.into});  // 4'
    op::rms_norm<P>::backward(ctx, {.dy = right(d.dpair),
                                    .x = args.h,
                                    .gain = w.g_hidden,
                                    .rstd = s.h_rstd,
                                    .dgain = g.g_hidden,
                                    .into = args.into});  // 3'
    op::rms_norm<P>::backward(ctx, {.dy = left(d.dpair),
                                    .x = s.e,
                                    .gain = w.g_embedding,
                                    .rstd = s.e_rstd,
                                    .dgain = g.g_embedding,
                                    .into = args.into});                                         // 2'
    op::embedding<P>::backward(ctx, {.ids = args.ids, .dy = d.de, .dtable = args.d_embedding});  // 1'
  }
};

}  // namespace dsv3::inline DSV3_ABI
