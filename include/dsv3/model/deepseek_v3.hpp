// SPDX-License-Identifier: MIT
// The whole network, forward, backward and decoding: a table of contents of layers.
#pragma once

#include <dsv3/model/bundles.hpp>
#include <dsv3/op/memory/fill.hpp>
#include <dsv3/op/memory/gather_rows.hpp>

#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// A batch of rows of tokens. Position i of depth k reads inputs[row, i + k] and predicts labels[row, i + k];
/// depth 0 is the main model. For plain text, inputs and labels are two column ranges of one array, one
/// apart.
struct token_batch {
  view<const std::int32_t, 2> inputs;  // [rows, length + mtp_depth]     -1: no token
  view<const std::int32_t, 2> labels;  // [rows, length + mtp_depth]     -1: no target
  packed_sequences sequence;           // over rows * length tokens
  std::vector<index_t> target_counts;  // [1 + mtp_depth]                labels that are not -1, by depth
};

template <precision P, layout_policy L = default_layout>
struct deepseek_v3 {
  model_config config;
  index_t head_chunk_tokens = 512;  // rows of logits that exist at a time

  struct forward_args {
    const token_batch& batch;
    const model_weights<P>& weights;
    view<const master<P>, 2> bias;  // [routers, experts]
    rope_table<const accumulator<P>> rope;
    balance_options balance = {};
    view<double, 1> losses;               // [depths + 1]         cross entropy by depth, balance; written
    view<std::int64_t, 2> load = {};      // [routers, experts]   added to when not empty
    view<accumulator<P>, 2> logits = {};  // [tokens, vocab]      of the main model; written when not empty
    std::vector<view<accumulator<P>, 2>> mtp_logits = {};  // [mtp_depth]     likewise
    model_saved<P>& saved;                                 // written
  };
  struct backward_args {
    const token_batch& batch;
    const model_weights<P>& weights;
    view<const master<P>, 2> bias;
    rope_table<const accumulator<P>> rope;
    balance_options balance = {};
    double loss_scale = 1;  // of everything
    double mtp_weight = 0;  // lambda: the mean of the MTP losses counts this much
    const model_saved<P>& saved;
    model_gradients<P>& gradients;  // added to, or written
    store into = store::add;
  };

  /// A step of the main model over the latent caches.
  struct decode_args {
    view<const std::int32_t, 1> ids;  // [tokens]
    cached_tokens tokens;
    const model_weights<P>& weights;
    view<const master<P>, 2> bias;  // [routers, experts]
    rope_table<const accumulator<P>> rope;
    const model_cache<P, L>& cache;          // the tokens' rows of the main blocks are written
    view<activation<P>, 2> h = {};           // [tokens, hidden]   what the first MTP module reads; written
                                             //                    when not empty
    view<const std::int32_t, 1> heads = {};  // [predicting]       the tokens whose next one is predicted
    view<accumulator<P>, 2> logits = {};  // [predicting, ids]      written; of the first ids, at most vocab
  };
  /// A step of MTP module `depth`, 1 to mtp_depth: for each token its h of depth - 1 and the id `depth`
  /// tokens further on.
  struct draft_args {
    index_t depth = 1;
    view<const activation<P>, 2> h;   // [tokens, hidden]
    view<const std::int32_t, 1> ids;  // [tokens]
    cached_tokens tokens;
    const model_weights<P>& weights;
    view<const master<P>, 2> bias;
    rope_table<const accumulator<P>> rope;
    const model_cache<P, L>& cache;          // the tokens' rows of this module are written
    view<activation<P>, 2> y;                // [tokens, hidden]   what the next depth reads; written
    view<const std::int32_t, 1> heads = {};  // [predicting]
    view<accumulator<P>, 2> logits = {};     // [predicting, ids]      written
  };

  model_activation_config activation_config(index_t rows, index_t length, index_t sequences,
                                            keep kept) const {
    model_activation_config c{config, rows, length, sequences, kept, {}};
    for (index_t l = 0; l < config.layers + config.mtp_depth; ++l)
      c.plans.push_back(block_of(l).activation_config(rows * length, sequences, kept).plan);
    return c;
  }

  template <execution_context Ctx>
  void forward(Ctx& ctx, const forward_args& args) const {
    model_saved<P>& s = args.saved;
    const model_weights<P>& w = args.weights;
    const index_t depths = s.config.depths();
    op::fill<double>::constant(ctx, {.y = args.losses, .value = 0});
    const auto balance_loss = args.losses.rows(depths, depths + 1);
    for (index_t k = 0; k < depths; ++k) shift(ctx, args.batch, k, s);                          // 1
    op::embedding<P>::forward(ctx, {.ids = s.ids[0], .table = w.embedding, .y = s.hidden[0]});  // 2
    for (index_t l = 0; l < config.layers; ++l)                                                 // 3
      block_of(l).forward(ctx, {.x = s.hidden[l],
                                .weights = w.blocks[at(l)],
                                .batch = block_batch(args, l),
                                .y = s.hidden[l + 1],
                                .balance_loss = balance_loss,
                                .load = router_row(args.load, l),
                                .saved = &s.blocks[at(l)]});
    op::rms_norm<P>::forward(ctx, {.x = s.hidden[config.layers],
                                   .gain = w.g_final,
                                   .y = s.normed,
                                   .rstd = s.rstd,
                                   .epsilon = config.epsilon});  // 4
    output().forward(ctx, {.x = s.normed,
                           .w = w.head,
                           .targets = s.targets[0],
                           .scale = mean_scale(args.batch, 0),
                           .loss = args.losses.rows(0, 1),
                           .logits = args.logits,
                           .saved = &s.heads[0]});  // 5
    for (index_t k = 1; k < depths; ++k) {
      const index_t layer = config.layers + k - 1;
      mtp_at(k).forward(ctx, {.h = representation(s, k - 1),
                              .ids = s.ids[k],
                              .embedding = w.embedding,
                              .weights = w.mtp[at(k - 1)],
                              .batch = block_batch(args, layer),
                              .balance_loss = balance_loss,
                              .load = router_row(args.load, layer),
                              .saved = s.mtp[at(k - 1)]});  // 6
      output().forward(
          ctx, {.x = s.mtp[at(k - 1)].normed,
                .w = w.head,
                .targets = s.targets[k],
                .scale = mean_scale(args.batch, k),
                .loss = args.losses.rows(k, k + 1),
                .logits = args.mtp_logits.empty() ? view<accumulator<P>, 2>{} : args.mtp_logits[at(k - 1)],
                .saved = &s.heads[at(k)]});  // 7
    }
  }

  template <execution_context Ctx>
  void backward(Ctx& ctx, const backward_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const model_saved<P>& s = args.saved;
    const model_weights<P>& w = args.weights;
    model_gradients<P>& g = args.gradients;
    const index_t tokens = s.config.tokens(), depths = s.config.depths();
    const auto stream = [&] { return ctx.scratch.template tensor<activation<P>>(tokens, config.hidden); };
    const auto d_normed = stream(), d_head = stream();
    view<activation<P>, 2> dh = stream(), dh_before = stream();
    // All depths share embedding and head: of the head's gradient the first writes what the others add to; to
    // the embedding's all add, as few of its rows have tokens.
    if (args.into == store::write)
      op::fill<gradient<P>>::constant(ctx, {.y = g.embedding.flat(), .value = 0});
    output().backward(ctx, {.x = s.normed,
                            .w = w.head,
                            .targets = s.targets[0],
                            .scale = mean_scale(args.batch, 0) * args.loss_scale,
                            .saved = s.heads[0],
                            .dx = d_normed,
                            .dw = g.head,
                            .into = args.into});  // 5'
    view<const activation<P>, 2> from_deeper;     // gradient of this depth's representation
    for (index_t k = depths - 1; k >= 1; --k) {
      const index_t layer = config.layers + k - 1;
      const double scale = mean_scale(args.batch, k) * args.loss_scale * args.mtp_weight /
                           static_cast<double>(config.mtp_depth);
      output().backward(ctx, {.x = s.mtp[at(k - 1)].normed,
                              .w = w.head,
                              .targets = s.targets[k],
                              .scale = scale,
                              .saved = s.heads[at(k)],
                              .dx = d_head,
                              .dw = g.head});  // 7'
      mtp_at(k).backward(ctx, {.d_normed = d_head,
                               .dy = from_deeper,
                               .h = representation(s, k - 1),
                               .ids = s.ids[k],
                               .weights = w.mtp[at(k - 1)],
                               .batch = block_batch(args, layer),
                               .saved = s.mtp[at(k - 1)],
                               .dh = dh,
                               .gradients = g.mtp[at(k - 1)],
                               .d_embedding = g.embedding,
                               .into = args.into});  // 6'
      from_deeper = dh;
      std::swap(dh, dh_before);
    }
    const bool joins_after_norm = config.mtp_reads == mtp_input::post_final_norm;
    if (!from_deeper.empty() && joins_after_norm)
      op::add<P>::forward(ctx, {.a = d_normed, .b = from_deeper, .y = d_normed});
    op::rms_norm<P>::backward(ctx,
                              {.dy = d_normed,
                               .x = s.hidden[config.layers],
                               .gain = w.g_final,
                               .rstd = s.rstd,
                               .dx = dh,
                               .dgain = g.g_final,
                               .d_residual = joins_after_norm ? view<const activation<P>, 2>{} : from_deeper,
                               .into = args.into});     // 4'
    for (index_t l = config.layers - 1; l >= 0; --l) {  // 3'
      block_of(l).backward(ctx, {.dy = dh,
                                 .x = s.hidden[l],
                                 .weights = w.blocks[at(l)],
                                 .batch = block_batch(args, l),
                                 .saved = s.blocks[at(l)],
                                 .dx = dh_before,
                                 .gradients = g.blocks[at(l)],
                                 .into = args.into});
      std::swap(dh, dh_before);
    }
    op::embedding<P>::backward(ctx, {.ids = s.ids[0], .dy = dh, .dtable = g.embedding});  // 2'
  }

  template <execution_context Ctx>
  void decode(Ctx& ctx, const decode_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const model_weights<P>& w = args.weights;
    const auto stream = [&] {
      return ctx.scratch.template tensor<activation<P>>(args.ids.extent(0), config.hidden);
    };
    const bool reads_normed = config.mtp_reads == mtp_input::post_final_norm;
    view<activation<P>, 2> x = stream(), y = stream();
    op::embedding<P>::forward(ctx, {.ids = args.ids, .table = w.embedding, .y = x});  // 2
    for (index_t l = 0; l < config.layers; ++l) {                                     // 3
      const bool leaves_h = l == config.layers - 1 && !reads_normed && !args.h.empty();
      const view<activation<P>, 2> out = leaves_h ? args.h : y;
      block_of(l).decode(ctx, {.x = x,
                               .weights = w.blocks[at(l)],
                               .tokens = args.tokens,
                               .cache = args.cache.rows[l],
                               .rope = args.rope,
                               .bias = router_row(args.bias, l),
                               .y = out});
      y = std::exchange(x, out);
    }
    const view<activation<P>, 2> normed = reads_normed && !args.h.empty() ? args.h : y;
    op::rms_norm<P>::forward(ctx, {.x = x, .gain = w.g_final, .y = normed, .epsilon = config.epsilon});  // 4
    predict(ctx, normed, args);                                                                          // 5
  }

  template <execution_context Ctx>
  void draft(Ctx& ctx, const draft_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const index_t layer = config.layers + args.depth - 1;
    const auto normed = ctx.scratch.template tensor<activation<P>>(args.ids.extent(0), config.hidden);
    mtp_at(args.depth)
        .decode(ctx, {.h = args.h,
                      .ids = args.ids,
                      .embedding = args.weights.embedding,
                      .weights = args.weights.mtp[at(args.depth - 1)],
                      .tokens = args.tokens,
                      .cache = args.cache.rows[layer],
                      .rope = args.rope,
                      .bias = router_row(args.bias, layer),
                      .y = args.y,
                      .normed = normed});  // 6
    predict(ctx, normed, args);            // 7
  }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  block<P, L> block_of(index_t layer) const { return {config.block(layer)}; }
  mtp_module<P, L> mtp_at(index_t depth) const { return {config.block(config.layers + depth - 1)}; }
  head<P> output() const { return {head_chunk_tokens}; }

  // Logits of the tokens that are asked for.
  template <class Ctx, class Args>
  static void predict(Ctx& ctx, view<const activation<P>, 2> normed, const Args& args) {
    if (args.heads.empty()) return;
    const scratch_frame frame{ctx.scratch};
    const auto x = ctx.scratch.template tensor<activation<P>>(args.heads.extent(0), normed.extent(1));
    op::gather_rows<activation<P>>::forward(ctx, {.x = normed, .rows = args.heads, .y = x});
    const auto head = args.weights.head.rows(0, args.logits.extent(1));
    op::gemm<P, accumulator<P>>::forward(ctx, {.x = x, .w = head, .y = args.logits});
  }

  // The state that depth k + 1 reads of depth k.
  view<const activation<P>, 2> representation(const model_saved<P>& s, index_t k) const {
    if (k > 0) return s.mtp[at(k - 1)].y;
    if (config.mtp_reads == mtp_input::post_final_norm) return s.normed;
    return s.hidden[config.layers];
  }

  // Which router a block has: its row of bias and load.
  template <class T>
  view<T, 1> router_row(view<T, 2> table, index_t layer) const {
    if (table.empty() || config.block(layer).kind == feed_forward::dense) return {};
    return table[layer - config.dense_layers];
  }

  template <class Args>
  typename block<P, L>::batch_args block_batch(const Args& args, index_t layer) const {
    balance_options balance = args.balance;
    if constexpr (requires { args.loss_scale; }) balance.coefficient *= args.loss_scale;
    return {.sequence = args.batch.sequence,
            .rope = args.rope,
            .bias = router_row(args.bias, layer),
            .balance = balance};
  }

  static double mean_scale(const token_batch& batch, index_t depth) {
    const index_t count = batch.target_counts.at(at(depth));
    return count > 0 ? 1.0 / static_cast<double>(count) : 0.0;
  }

  // Depth k reads and predicts k tokens further on.
  template <class Ctx>
  static void shift(Ctx& ctx, const token_batch& batch, index_t k, const model_saved<P>& s) {
    const index_t rows = s.config.rows, length = s.config.length;
    using move = op::copy<std::int32_t, std::int32_t>;
    move::forward(ctx, {.x = batch.inputs.columns(k, k + length), .y = view{s.ids[k].data(), rows, length}});
    move::forward(ctx,
                  {.x = batch.labels.columns(k, k + length), .y = view{s.targets[k].data(), rows, length}});
  }
};

}  // namespace dsv3::inline DSV3_ABI
