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

/// Forward and backward go through one stage of the network, which `saved` is made for: the whole network,
/// unless activation_config was told otherwise. A stage that does not begin with the embedding reads
/// saved.input(), one that does not end with the head leaves saved.output(); so does backward with the
/// gradients of these.
template <precision P, layout_policy L = default_layout>
struct deepseek_v3 {
  model_config config;
  index_t head_chunk_tokens = 512;      // rows of logits that exist at a time
  any_communicator experts_among = {};  // the ranks that share experts

  struct forward_args {
    const token_batch& batch;
    const model_weights<P>& weights;
    view<const master<P>, 2> bias;  // [routers, experts]
    rope_table<const accumulator<P>> rope;
    balance_options balance = {};
    view<double, 1> losses;               // [depths + 1]         cross entropy by depth, balance; written by
                                          //                      the first stage, added to by the others
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
    model_gradients<P>& gradients;         // added to, or written
    store into = store::add;               // the embedding's is added to where the network is cut
    view<activation<P>, 2> dx = {};        // [tokens, hidden]    of saved.input(); written
    view<const activation<P>, 2> dy = {};  // [tokens, hidden]    of saved.output()
  };
  /// The half that the stage before waits for. Of the gradients it makes those of embedding, final norm and
  /// head, whose logits' gradient exists a chunk at a time.
  struct backward_data_args {
    const token_batch& batch;
    const model_weights<P>& weights;
    view<const master<P>, 2> bias;
    rope_table<const accumulator<P>> rope;
    balance_options balance = {};
    double loss_scale = 1;
    double mtp_weight = 0;
    const model_saved<P>& saved;
    model_gradients<P>& gradients;
    store into = store::add;         // as backward's
    view<activation<P>, 2> dx = {};  // as backward's
    model_deltas<P>& deltas;         // written, but for output(): it is read where a stage follows
  };
  /// The half that nobody waits for: blocks and MTP modules.
  struct backward_weights_args {
    const token_batch& batch;
    const model_weights<P>& weights;
    view<const master<P>, 2> bias;
    rope_table<const accumulator<P>> rope;
    balance_options balance = {};
    double loss_scale = 1;
    const model_saved<P>& saved;
    const model_deltas<P>& deltas;
    model_gradients<P>& gradients;
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
    return activation_config(rows, length, sequences, kept, config.whole());
  }
  model_activation_config activation_config(index_t rows, index_t length, index_t sequences, keep kept,
                                            const model_stage& stage) const {
    model_activation_config c{config, rows, length, sequences, kept, {}, stage};
    for (index_t l = 0; l < config.layers + config.mtp_depth; ++l)
      c.plans.push_back(block_of(l).activation_config(rows * length, sequences, kept).plan);
    return c;
  }

  template <execution_context Ctx>
  void forward(Ctx& ctx, const forward_args& args) const {
    model_saved<P>& s = args.saved;
    const model_weights<P>& w = args.weights;
    const index_t depths = s.config.depths();
    const auto balance_loss = args.losses.rows(depths, depths + 1);
    shift(ctx, args.batch, s);  // 1
    if (s.config.begins()) {
      op::fill<double>::constant(ctx, {.y = args.losses, .value = 0});
      op::embedding<P>::forward(ctx, {.ids = s.ids[0], .table = w.embedding, .y = s.input()});  // 2
    }
    for (index_t l = s.config.stage.first; l < s.config.stage.last; ++l)  // 3
      block_of(l).forward(ctx, {.x = input_of(s, l),
                                .weights = w.blocks[at(l)],
                                .batch = block_batch(args, l),
                                .y = input_of(s, l + 1),
                                .balance_loss = balance_loss,
                                .load = router_row(args.load, l),
                                .saved = &s.blocks[at(l)]});
    if (!s.config.ends()) return;
    op::rms_norm<P>::forward(
        ctx,
        {.x = s.output(), .gain = w.g_final, .y = s.normed, .rstd = s.rstd, .epsilon = config.epsilon});  // 4
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
    view<activation<P>, 2> dh = stream(ctx, s), dh_before = stream(ctx, s);
    view<const activation<P>, 2> dy = args.dy;  // of the output of the block to come
    begin_gradients(ctx, args);
    if (s.config.ends()) {
      const auto d_head = stream(ctx, s);
      output_backward(
          ctx, args, dh, dh_before, [&](index_t) { return d_head; },
          [&](index_t k, view<const activation<P>, 2> from_deeper, view<activation<P>, 2> d_before) {
            mtp_at(k).backward(ctx, {.d_normed = d_head,
                                     .dy = from_deeper,
                                     .h = representation(s, k - 1),
                                     .ids = s.ids[k],
                                     .weights = args.weights.mtp[at(k - 1)],
                                     .batch = block_batch(args, config.layers + k - 1),
                                     .saved = s.mtp[at(k - 1)],
                                     .dh = d_before,
                                     .gradients = args.gradients.mtp[at(k - 1)],
                                     .d_embedding = args.gradients.embedding,
                                     .into = args.into});  // 6'
          });
      dy = dh;
      std::swap(dh, dh_before);
    }
    for (index_t l = s.config.stage.last - 1; l >= s.config.stage.first; --l) {  // 3'
      const auto dx = hands_on(args, l) ? args.dx : dh;
      block_of(l).backward(ctx, {.dy = dy,
                                 .x = input_of(s, l),
                                 .weights = args.weights.blocks[at(l)],
                                 .batch = block_batch(args, l),
                                 .saved = s.blocks[at(l)],
                                 .dx = dx,
                                 .gradients = args.gradients.blocks[at(l)],
                                 .into = args.into});
      dy = dx;
      std::swap(dh, dh_before);
    }
    embedding_backward(ctx, args, dy);  // 2'
  }

  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const backward_data_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const model_saved<P>& s = args.saved;
    const model_stage& stage = s.config.stage;
    model_deltas<P>& d = args.deltas;
    const auto first_dx = stream(ctx, s);  // of the network's first block
    begin_gradients(ctx, args);
    if (s.config.ends())
      output_backward(
          ctx, args, d.output(), first_dx, [&](index_t k) { return d.d_normed[k - 1]; },
          [&](index_t k, view<const activation<P>, 2> from_deeper, view<activation<P>, 2> d_before) {
            mtp_at(k).backward_data(ctx, {.d_normed = d.d_normed[k - 1],
                                          .dy = from_deeper,
                                          .h = representation(s, k - 1),
                                          .weights = args.weights.mtp[at(k - 1)],
                                          .batch = block_batch(args, config.layers + k - 1),
                                          .saved = s.mtp[at(k - 1)],
                                          .dh = d_before,
                                          .deltas = d.mtp[at(k - 1)]});  // 6'
          });
    for (index_t l = stage.last - 1; l >= stage.first; --l) {  // 3'
      const auto dx = l > stage.first ? d.dh[l - 1 - stage.first] : hands_on(args, l) ? args.dx : first_dx;
      block_of(l).backward_data(ctx, {.dy = d.dh[l - stage.first],
                                      .x = input_of(s, l),
                                      .weights = args.weights.blocks[at(l)],
                                      .batch = block_batch(args, l),
                                      .saved = s.blocks[at(l)],
                                      .dx = dx,
                                      .deltas = d.blocks[at(l)]});
    }
    embedding_backward(ctx, args, first_dx);  // 2'
  }

  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, const backward_weights_args& args) const {
    const model_saved<P>& s = args.saved;
    const model_stage& stage = s.config.stage;
    const model_deltas<P>& d = args.deltas;
    for (index_t k = s.config.ends() ? config.mtp_depth : 0; k >= 1; --k)
      mtp_at(k).backward_weights(ctx, {.d_normed = d.d_normed[k - 1],
                                       .h = representation(s, k - 1),
                                       .ids = s.ids[k],
                                       .weights = args.weights.mtp[at(k - 1)],
                                       .batch = block_batch(args, config.layers + k - 1),
                                       .saved = s.mtp[at(k - 1)],
                                       .deltas = d.mtp[at(k - 1)],
                                       .gradients = args.gradients.mtp[at(k - 1)],
                                       .d_embedding = args.gradients.embedding,
                                       .into = args.into});  // 6'
    for (index_t l = stage.last - 1; l >= stage.first; --l)
      block_of(l).backward_weights(ctx, {.dy = d.dh[l - stage.first],
                                         .x = input_of(s, l),
                                         .weights = args.weights.blocks[at(l)],
                                         .batch = block_batch(args, l),
                                         .saved = s.blocks[at(l)],
                                         .deltas = d.blocks[at(l)],
                                         .gradients = args.gradients.blocks[at(l)],
                                         .into = args.into});  // 3'
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
  block<P, L> block_of(index_t layer) const { return {config.block(layer), experts_among}; }
  mtp_module<P, L> mtp_at(index_t depth) const {
    return {config.block(config.layers + depth - 1), experts_among};
  }
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

  // The input of a block; of the one after the stage's last: the output.
  static view<activation<P>, 2> input_of(const model_saved<P>& s, index_t layer) {
    return s.hidden[layer - s.config.stage.first];
  }
  template <class Ctx>
  view<activation<P>, 2> stream(Ctx& ctx, const model_saved<P>& s) const {
    return ctx.scratch.template tensor<activation<P>>(s.config.tokens(), config.hidden);
  }
  // Whether the gradient of this block's input is the stage before's.
  template <class Args>
  static bool hands_on(const Args& args, index_t layer) {
    return layer == args.saved.config.stage.first && !args.saved.config.begins();
  }

  // All depths share embedding and head: of the head's gradient the first writes what the others add to; to
  // the embedding's all add, as few of its rows have tokens.
  template <class Ctx, class Args>
  void begin_gradients(Ctx& ctx, const Args& args) const {
    if (args.into == store::write && config.held.empty())
      op::fill<gradient<P>>::constant(ctx, {.y = args.gradients.embedding.flat(), .value = 0});
  }
  template <class Ctx, class Args>
  void embedding_backward(Ctx& ctx, const Args& args, view<const activation<P>, 2> dy) const {
    if (args.saved.config.begins())
      op::embedding<P>::backward(ctx,
                                 {.ids = args.saved.ids[0], .dy = dy, .dtable = args.gradients.embedding});
  }

  // 5' and 7' to 4': into dh the gradient of the last block's output. d_head(k) is where that of what the
  // head reads of depth k goes, of_module(k, from deeper, d_before) the backward of MTP module k.
  template <class Ctx, class Args, class Room, class Module>
  void output_backward(Ctx& ctx, const Args& args, view<activation<P>, 2> dh, view<activation<P>, 2> other,
                       Room&& d_head, Module&& of_module) const {
    const scratch_frame frame{ctx.scratch};
    const model_saved<P>& s = args.saved;
    const auto d_normed = stream(ctx, s);
    const auto of_head = [&](index_t k, view<const activation<P>, 2> x, view<activation<P>, 2> dx) {
      const double scale = mean_scale(args.batch, k) * args.loss_scale;
      output().backward(
          ctx, {.x = x,
                .w = args.weights.head,
                .targets = s.targets[k],
                .scale = k == 0 ? scale : scale * args.mtp_weight / static_cast<double>(config.mtp_depth),
                .saved = s.heads[at(k)],
                .dx = dx,
                .dw = args.gradients.head,
                .into = k == 0 ? args.into : store::add});
    };
    of_head(0, s.normed, d_normed);            // 5'
    view<const activation<P>, 2> from_deeper;  // gradient of this depth's representation
    for (index_t k = config.mtp_depth; k >= 1; --k) {
      of_head(k, s.mtp[at(k - 1)].normed, d_head(k));  // 7'
      const auto d_before = k % 2 == 1 ? other : dh;
      of_module(k, from_deeper, d_before);
      from_deeper = d_before;
    }
    const bool joins_after_norm = config.mtp_reads == mtp_input::post_final_norm;
    if (!from_deeper.empty() && joins_after_norm)
      op::add<P>::forward(ctx, {.a = d_normed, .b = from_deeper, .y = d_normed});
    op::rms_norm<P>::backward(ctx,
                              {.dy = d_normed,
                               .x = s.output(),
                               .gain = args.weights.g_final,
                               .rstd = s.rstd,
                               .dx = dh,
                               .dgain = args.gradients.g_final,
                               .d_residual = joins_after_norm ? view<const activation<P>, 2>{} : from_deeper,
                               .into = args.into});  // 4'
  }

  // The state that depth k + 1 reads of depth k.
  view<const activation<P>, 2> representation(const model_saved<P>& s, index_t k) const {
    if (k > 0) return s.mtp[at(k - 1)].y;
    return config.mtp_reads == mtp_input::post_final_norm ? s.normed : s.output();
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
  static void shift(Ctx& ctx, const token_batch& batch, const model_saved<P>& s) {
    const index_t rows = s.config.rows, length = s.config.length;
    const auto move = [&](const view<const std::int32_t, 2>& from, const view<std::int32_t, 2>& to) {
      if (to.empty()) return;
      for (index_t k = 0; k < s.config.depths(); ++k)
        op::copy<std::int32_t, std::int32_t>::forward(
            ctx, {.x = from.columns(k, k + length), .y = view{to[k].data(), rows, length}});
    };
    move(batch.inputs, s.ids);
    move(batch.labels, s.targets);
  }
};

}  // namespace dsv3::inline DSV3_ABI
