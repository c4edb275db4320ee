// SPDX-License-Identifier: MIT
// What a model costs: parameters by component, cache bytes and FLOPs per token.
#pragma once

#include <dsv3/model/bundles.hpp>

#include <string>

namespace dsv3::inline DSV3_ABI {

/// Learnable numbers by component, counted over the tables of contents that also allocate and save them; and
/// the routing bias, which is not learned by gradient.
struct parameter_counts {
  index_t embedding = 0, head = 0;
  index_t attention = 0;   // latent norms included
  index_t norms = 0;       // of blocks, the final one, and those of MTP modules
  index_t projection = 0;  // eh_proj of MTP modules
  index_t dense = 0;
  index_t routed_experts = 0, shared_experts = 0;
  index_t router = 0, router_bias = 0;
  index_t vectors = 0;  // those of attention and norms that stand in no matrix

  index_t moe() const { return routed_experts + shared_experts + router + router_bias; }
  index_t total() const { return embedding + head + attention + norms + projection + dense + moe(); }

  /// Counts one tensor of the table of contents.
  void count(const std::string& name, const shape& s) {
    const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
    const bool vector = s.rank() == 1;
    index_t& component = has("embed_tokens")          ? embedding
                         : has("lm_head")             ? head
                         : has("self_attn.")          ? attention
                         : has("eh_proj")             ? projection
                         : has("mlp.experts.")        ? routed_experts
                         : has("mlp.shared_experts.") ? shared_experts
                         : has("mlp.gate.")           ? router
                         : has("mlp.")                ? dense
                                                      : norms;
    component += s.elements();
    if (vector) vectors += s.elements();
  }
};

/// Everything below follows from the config alone, and is of the whole network, however it is shared out.
/// Counts are exact; a multiply-add is two FLOPs.
class model_account {
 public:
  explicit model_account(const model_config& of) : config_(of.whole_model()) {
    const model_config& config = config_;
    model_config alone = config;
    alone.mtp_depth = 0;
    count<model_tensors<float>>(alone, main_);
    main_.router_bias = biases(config.moe_layers());
    for (index_t k = 0; k < config.mtp_depth; ++k)
      count<mtp_tensors<float>>(config.block(config.layers + k), mtp_);
    mtp_.router_bias = biases(config.experts > 0 ? config.mtp_depth : 0);
  }

  const model_config& config() const { return config_; }
  /// The main model.
  const parameter_counts& main() const { return main_; }
  /// All MTP modules, without the embedding and head they share with the main model.
  const parameter_counts& mtp() const { return mtp_; }

  /// Parameters that one token meets, the embedding table left out.
  index_t activated_without_embedding() const { return met(main_) - main_.embedding; }
  /// The same, the whole embedding table counted.
  index_t activated() const { return met(main_); }
  /// Of the MTP modules alone, and with the shared embedding and head of each.
  index_t mtp_activated_alone() const { return met(mtp_); }
  index_t mtp_activated() const { return met(mtp_) + mtp_copies(); }
  /// Embedding and head as the checkpoint stores them again with each module.
  index_t mtp_copies() const { return config_.mtp_depth * (main_.embedding + main_.head); }

  // ---- cache
  // -----------------------------------------------------------------------------------------------

  /// Of one layer: the normed latent and the rotated shared key, in bf16.
  index_t cache_bytes_per_layer() const { return 2 * (config_.kv_rank + config_.qk_rope); }
  index_t cache_bytes() const { return config_.layers * cache_bytes_per_layer(); }
  /// With the layers of the MTP modules, which draft.
  index_t cache_bytes_with_mtp() const {
    return (config_.layers + config_.mtp_depth) * cache_bytes_per_layer();
  }
  /// The latent in FP8 with a float scale for every 128 values, the key in bf16.
  index_t fp8_cache_bytes_per_layer() const {
    return config_.kv_rank + 4 * ceil_div(config_.kv_rank, 128) + 2 * config_.qk_rope;
  }
  index_t fp8_cache_bytes() const { return config_.layers * fp8_cache_bytes_per_layer(); }
  /// What ordinary multi-head attention with the same heads would keep, in bf16.
  index_t plain_cache_bytes_per_layer() const { return 2 * config_.heads * head_width(); }
  index_t plain_cache_bytes() const { return config_.layers * plain_cache_bytes_per_layer(); }

  // ---- FLOPs per token
  // ----------------------------------------------------------------------------------------

  /// Numbers of the matrices that one token is multiplied with: no embedding, norms or biases.
  index_t matrix_parameters() const {
    return met(main_) - main_.embedding - main_.vectors - main_.router_bias;
  }
  /// Of the MTP modules, the shared head once for each.
  index_t mtp_matrix_parameters() const {
    return met(mtp_) - mtp_.vectors - mtp_.router_bias + config_.mtp_depth * main_.head;
  }

  /// Scores and weighted values of one layer over `keys` keys.
  double attention_flops_per_layer(double keys) const {
    return 2 * static_cast<double>(config_.heads * head_width()) * keys;
  }
  /// Keys that a token of a row of `length` tokens attends to: the mean over the row, or all without a mask.
  enum class counting { causal, non_causal };
  static double keys(index_t length, counting how) {
    const auto all = static_cast<double>(length);
    return how == counting::causal ? (all + 1) / 2 : all;
  }

  double forward_flops(index_t length, counting how) const {
    return 2 * static_cast<double>(matrix_parameters()) +
           static_cast<double>(config_.layers) * attention_flops_per_layer(keys(length, how));
  }
  double mtp_forward_flops(index_t length, counting how) const {
    return 2 * static_cast<double>(mtp_matrix_parameters()) +
           static_cast<double>(config_.mtp_depth) * attention_flops_per_layer(keys(length, how));
  }
  /// Backward is twice forward; what recomputation adds is not counted.
  double training_flops(index_t length, counting how) const { return 3 * forward_flops(length, how); }
  double mtp_training_flops(index_t length, counting how) const { return 3 * mtp_forward_flops(length, how); }

  /// Attention of one layer for one token over `context` cached latents: scores and values in the latent
  /// space.
  double decode_attention_flops_per_layer(index_t context) const {
    return 2 * static_cast<double>(config_.heads * (2 * config_.kv_rank + config_.qk_rope)) *
           static_cast<double>(context);
  }
  /// One token at that context; the products that absorption removes and adds are equally many.
  double decode_flops(index_t context) const {
    return 2 * static_cast<double>(matrix_parameters()) +
           static_cast<double>(config_.layers) * decode_attention_flops_per_layer(context);
  }

 private:
  template <class Bundle, class Config>
  static void count(const Config& config, parameter_counts& counts) {
    Bundle blank;
    blank.config = config;
    for_each_field([&](const std::string& name, const shape& s, auto&) { counts.count(name, s); }, blank);
  }
  // Softmax routers have none.
  index_t biases(index_t routers) const {
    return config_.scoring == router_scoring::sigmoid ? routers * config_.experts : 0;
  }
  // One token meets top_k of the routed experts, and everything else.
  index_t met(const parameter_counts& c) const {
    const index_t routed = config_.experts > 0 ? c.routed_experts / config_.experts * config_.top_k : 0;
    return c.total() - c.routed_experts + routed;
  }
  index_t head_width() const { return config_.qk_nope + config_.qk_rope + config_.v_dim; }

  model_config config_;
  parameter_counts main_, mtp_;
};

}  // namespace dsv3::inline DSV3_ABI
