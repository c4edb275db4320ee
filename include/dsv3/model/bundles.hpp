// SPDX-License-Identifier: MIT
// Weights, gradients and saved activations of the whole network.
#pragma once

#include <dsv3/layer/head.hpp>
#include <dsv3/model/config.hpp>

#include <string>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// One value per learnable parameter: weights, masters, gradients, moments. Names are the checkpoint's, but
/// for the projections that lie in one tensor here (`gate_up_proj`, `experts.*`), which model/checkpoint.hpp
/// takes apart. Product is what the matrices of the linear layers consist of; embedding, head and MTP's joint
/// projection consist of Matrix.
template <class Matrix, class Vector = Matrix, class Product = Matrix>
struct model_tensors {
  model_config config;
  view<Matrix, 2> embedding;                           // [vocab, hidden]
  std::vector<block_tensors<Product, Vector>> blocks;  // of the main model
  view<Vector, 1> g_final;                             // [hidden]
  view<Matrix, 2> head;                                // [vocab, hidden]
  std::vector<mtp_tensors<Matrix, Vector, Product>>
      mtp;  // layers config.layers, config.layers + 1, ... of the checkpoint

  template <class Visit, class... Self>
  static void each_field(const model_config& c, Visit&& visit, Self&... self) {
    (resize_parts(self.blocks, c.layers), ...);
    (resize_parts(self.mtp, c.mtp_depth), ...);
    if (c.holds_embedding()) visit("model.embed_tokens.weight", shape{c.vocab, c.hidden}, self.embedding...);
    for (index_t l = 0; l < c.layers; ++l)
      if (c.holds_block(l))
        each_part("model.layers." + std::to_string(l) + ".", c.block(l), visit,
                  self.blocks[static_cast<std::size_t>(l)]...);
    if (!c.holds_output()) return;
    visit("model.norm.weight", shape{c.hidden}, self.g_final...);
    visit("lm_head.weight", shape{c.vocab, c.hidden}, self.head...);
    for (index_t k = 0; k < c.mtp_depth; ++k)
      each_part("model.layers." + std::to_string(c.layers + k) + ".", c.block(c.layers + k), visit,
                self.mtp[static_cast<std::size_t>(k)]...);
  }
};

template <precision P>
using model_weights = model_tensors<weight<P>, master<P>, product_weight<P>>;
template <precision P>
using model_masters = model_tensors<master<P>>;
template <precision P>
using model_gradients = model_tensors<gradient<P>>;
template <precision P>
using model_moments = model_tensors<moment<P>>;

/// State of the routers that is not learned by gradient. Row r belongs to router r: the main model's MoE
/// layers first, then the MTP modules.
template <precision P>
struct routing_state {
  model_config config;
  view<master<P>, 2> bias;     // [routers, experts]    e_score_correction_bias
  view<std::int64_t, 2> load;  // [routers, experts]    assignments since the last update

  template <class Visit, class... Self>
  static void each_field(const model_config& c, Visit&& visit, Self&... self) {
    visit("bias", shape{c.routers(), c.experts}, self.bias...);
    visit("load", shape{c.routers(), c.experts}, self.load...);
  }
};

struct model_cache_config {
  model_config model;
  index_t pages = 0, page_rows = 0;

  /// Main blocks first, then the MTP modules.
  index_t layers() const { return model.layers + model.mtp_depth; }
};

/// The latent caches of all blocks. A page has the same number in each of them, so one table of pages serves
/// a sequence.
template <precision P, layout_policy L = default_layout>
struct model_cache {
  using row = typename L::cache::row;

  model_cache_config config;
  view<cache_element<P, L>, 4> rows;  // [layers, pages, page_rows, width of a row]

  template <class Visit, class... Self>
  static void each_field(const model_cache_config& c, Visit&& visit, Self&... self) {
    const index_t width = row::width(c.model.kv_rank, c.model.qk_rope);
    visit("rows", shape{c.layers(), c.pages, c.page_rows, width}, self.rows...);
  }
};

struct model_activation_config {
  model_config model;
  index_t rows = 0, length = 0;  // a batch of rows of `length` tokens
  index_t sequences = 0;
  keep kept = keep::everything;
  std::vector<permutation_config> plans =
      {};  // of each block and MTP module; deepseek_v3::activation_config fills it
  model_stage stage = model.whole();

  bool begins() const { return model.begins(stage); }
  bool ends() const { return model.ends(stage); }
  index_t tokens() const { return rows * length; }
  index_t depths() const { return 1 + model.mtp_depth; }
  block_activation_config block(index_t layer) const {
    return {model.block(layer), plans.at(static_cast<std::size_t>(layer)), tokens(), sequences, kept};
  }
  head_activation_config head() const { return {tokens(), model.vocab, kept}; }
};

/// What the forward of a stage, or of the whole network, leaves for its backward.
template <precision P>
struct model_saved {
  model_activation_config config;
  view<std::int32_t, 2> ids;      // [depths, tokens]             what each depth reads
  view<std::int32_t, 2> targets;  // [depths, tokens]             what each depth predicts
  view<activation<P>, 3>
      hidden;  // [blocks + 1, tokens, hidden] input of each block; last: output of the last block
  view<accumulator<P>, 1> rstd;        // [tokens]                     of the final norm
  view<activation<P>, 2> normed;       // [tokens, hidden]             after the final norm
  std::vector<block_saved<P>> blocks;  // by their number in the network
  std::vector<mtp_saved<P>> mtp;
  std::vector<head_saved<P>> heads;  // of the main model, then of each MTP depth

  /// Where a stage that does not begin the network reads, and where one that does not end it writes.
  view<activation<P>, 2> input() const { return hidden[0]; }
  view<activation<P>, 2> output() const { return hidden[config.stage.blocks()]; }

  template <class Visit, class... Self>
  static void each_field(const model_activation_config& c, Visit&& visit, Self&... self) {
    const bool begins = c.begins(), ends = c.ends();
    (resize_parts(self.blocks, c.model.layers), ...);
    (resize_parts(self.mtp, c.model.mtp_depth), ...);
    (resize_parts(self.heads, c.depths()), ...);
    if (begins || ends) visit("ids", shape{c.depths(), c.tokens()}, self.ids...);
    if (ends) visit("targets", shape{c.depths(), c.tokens()}, self.targets...);
    visit("hidden", shape{c.stage.blocks() + 1, c.tokens(), c.model.hidden}, self.hidden...);
    if (ends) {
      visit("rstd", shape{c.tokens()}, self.rstd...);
      visit("normed", shape{c.tokens(), c.model.hidden}, self.normed...);
    }
    for (index_t l = c.stage.first; l < c.stage.last; ++l)
      each_part("blocks." + std::to_string(l) + ".", c.block(l), visit,
                self.blocks[static_cast<std::size_t>(l)]...);
    if (!ends) return;
    for (index_t k = 0; k < c.model.mtp_depth; ++k)
      each_part("mtp." + std::to_string(k) + ".", c.block(c.model.layers + k), visit,
                self.mtp[static_cast<std::size_t>(k)]...);
    for (index_t k = 0; k < c.depths(); ++k)
      each_part("heads." + std::to_string(k) + ".", c.head(), visit,
                self.heads[static_cast<std::size_t>(k)]...);
  }
};

/// What the data half of a stage's backward leaves for its weight half.
template <precision P>
struct model_deltas {
  model_activation_config config;
  view<activation<P>, 3> dh;        // [blocks, tokens, hidden]      gradient of each block's output
  view<activation<P>, 3> d_normed;  // [mtp_depth, tokens, hidden]   of what the head reads of each MTP module
  std::vector<block_deltas<P>> blocks;
  std::vector<mtp_deltas<P>> mtp;

  /// Where a stage that does not end the network reads.
  view<activation<P>, 2> output() const { return dh[config.stage.blocks() - 1]; }

  template <class Visit, class... Self>
  static void each_field(const model_activation_config& c, Visit&& visit, Self&... self) {
    (resize_parts(self.blocks, c.model.layers), ...);
    (resize_parts(self.mtp, c.model.mtp_depth), ...);
    visit("dh", shape{c.stage.blocks(), c.tokens(), c.model.hidden}, self.dh...);
    for (index_t l = c.stage.first; l < c.stage.last; ++l)
      each_part("blocks." + std::to_string(l) + ".", c.block(l), visit,
                self.blocks[static_cast<std::size_t>(l)]...);
    if (!c.ends() || c.model.mtp_depth == 0) return;
    visit("d_normed", shape{c.model.mtp_depth, c.tokens(), c.model.hidden}, self.d_normed...);
    for (index_t k = 0; k < c.model.mtp_depth; ++k)
      each_part("mtp." + std::to_string(k) + ".", c.block(c.model.layers + k), visit,
                self.mtp[static_cast<std::size_t>(k)]...);
  }
};

}  // namespace dsv3::inline DSV3_ABI
