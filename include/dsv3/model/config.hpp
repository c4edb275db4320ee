// SPDX-License-Identifier: MIT
// The numbers that make a model, and the sizes that have names.
#pragma once

#include <dsv3/layer/mtp_module.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// What the first MTP module reads of the main model: the report leaves it open, engines that run the
/// released weights use the state after the final norm.
enum class mtp_input { post_final_norm, pre_final_norm };

/// How the router scores. softmax (DeepSeek-V2, no bias) can be planned, not run.
enum class router_scoring { sigmoid, softmax };

/// A stretch of the network, what one rank of a pipeline computes at a time: blocks [first, last) of the main
/// model; with the embedding where it begins with the first block, with final norm, head and MTP modules
/// where it ends with the last.
struct model_stage {
  index_t first = 0, last = 0;

  index_t blocks() const { return last - first; }
  friend bool operator==(const model_stage&, const model_stage&) = default;
};

struct model_config {
  index_t vocab = 0, hidden = 0;
  index_t layers = 0;        // blocks of the main model
  index_t dense_layers = 0;  // how many of them, from the first, have a dense feed-forward
  index_t mtp_depth = 0;     // multi-token-prediction modules
  index_t dense_inner = 0;   // inner width of the dense feed-forward
  index_t heads = 0, q_rank = 0, kv_rank = 0, qk_nope = 0, qk_rope = 0, v_dim = 0;
  index_t expert_inner = 0, experts = 0, shared_experts = 0, top_k = 0, groups = 1, kept_groups = 1;
  router_scoring scoring = router_scoring::sigmoid;
  gate_norm normalise_gates = gate_norm::sum_to_one;
  double routed_scale = 1;
  double epsilon = 1e-6;  // of every norm but the two latent ones
  double latent_epsilon = 1e-6;
  rope_config rope;
  index_t max_positions = 0;  // context length the model is for, tokens
  mtp_input mtp_reads = mtp_input::post_final_norm;
  std::int32_t bos_id = 0, eos_id = 1;
  double init_deviation = 0.006;              // of every learnable matrix (report, section 4.2)
  fp8_recipe recipe = {};                     // of precisions with narrow operands; no part of a checkpoint
  std::vector<model_stage> held = {};         // what of the network lies here; empty: all of it
  index_t expert_ranks = 1, expert_rank = 0;  // how many ranks share every layer's experts, and which is this
  expert_exchange_options expert_exchange = {};  // between them

  /// Of the whole network on one rank.
  model_config whole_model() const {
    model_config c = *this;
    c.held.clear();
    c.expert_ranks = 1, c.expert_rank = 0;
    return c;
  }
  /// The network as one stage.
  model_stage whole() const { return {0, layers}; }
  bool begins(const model_stage& stage) const { return stage.first == 0; }
  bool ends(const model_stage& stage) const { return stage.last == layers; }
  bool holds_block(index_t layer) const {
    return holds([&](const model_stage& s) { return s.first <= layer && layer < s.last; });
  }
  bool holds_output() const {
    return holds([&](const model_stage& s) { return ends(s); });
  }
  /// MTP modules read the embedding too.
  bool holds_embedding() const {
    return holds([&](const model_stage& s) { return begins(s) || (mtp_depth > 0 && ends(s)); });
  }

  index_t moe_layers() const { return layers - dense_layers; }
  /// Routers of the whole network: those of the main model's MoE layers, then one per MTP module.
  index_t routers() const { return moe_layers() + (experts > 0 ? mtp_depth : 0); }

  mla_config attention() const {
    return {.hidden = hidden,
            .heads = heads,
            .qk_nope = qk_nope,
            .qk_rope = qk_rope,
            .v_dim = v_dim,
            .kv_rank = kv_rank,
            .q_rank = q_rank,
            .latent_epsilon = latent_epsilon,
            .rope = rope,
            .recipe = recipe};
  }
  moe_config moe() const {
    return {.router = {.hidden = hidden,
                       .experts = experts,
                       .top_k = top_k,
                       .groups = groups,
                       .kept_groups = kept_groups,
                       .normalise = normalise_gates,
                       .scale = routed_scale},
            .inner = expert_inner,
            .shared_experts = shared_experts,
            .recipe = recipe,
            .expert_ranks = expert_ranks,
            .expert_rank = expert_rank,
            .exchange = expert_exchange};
  }
  /// Block `layer` of the main model; `layer >= layers` is the block of an MTP module.
  block_config block(index_t layer) const {
    block_config c{.attention = attention(),
                   .kind = feed_forward::dense,
                   .dense = {},
                   .experts = {},
                   .epsilon = epsilon};
    if (layer < dense_layers || experts == 0)
      c.dense = {hidden, dense_inner, recipe};
    else
      c.kind = feed_forward::experts, c.experts = moe();
    return c;
  }

  /// Good, or one sentence that says which number is impossible and why.
  status check() const;

  static model_config deepseek_v3();
  static model_config deepseek_v2();
  static model_config deepseek_v2_lite();
  static model_config moonlight_16b();
  /// About 6 million parameters with every feature on: tests, and a demonstration on two cores.
  static model_config tiny();
  /// About 12 million parameters with every feature on, every width several tiles of 128: comparisons of
  /// 8-bit recipes on a few cores.
  static model_config midi();
  /// About 169 million parameters with every feature on.
  static model_config mini();
  /// About 1.1 billion parameters with every feature on: what one GPU of 80 GB trains in an afternoon.
  static model_config small_1b();
  /// About 3 billion parameters without MTP, wide enough for a GPU's matrix units: what trainers are compared
  /// with.
  static model_config bench_3b();

 private:
  template <class Test>
  bool holds(Test&& test) const {
    return held.empty() || std::any_of(held.begin(), held.end(), test);
  }
};

inline status model_config::check() const {
  requirements need{"model config"};
  need.that(vocab > 0, "vocab_size must be positive")
      .that(hidden > 0, "hidden_size must be positive")
      .that(layers > 0, "num_hidden_layers must be positive")
      .that(dense_layers >= 0 && dense_layers <= layers,
            "first_k_dense_replace must be between 0 and num_hidden_layers",
            {{"first_k_dense_replace", dense_layers}, {"num_hidden_layers", layers}})
      .that(mtp_depth >= 0, "num_nextn_predict_layers must not be negative")
      .that(dense_layers == 0 || dense_inner > 0, "intermediate_size must be positive where layers are dense")
      .that(heads > 0, "num_attention_heads must be positive")
      .that(kv_rank > 0, "kv_lora_rank must be positive")
      .that(q_rank >= 0, "q_lora_rank must be positive, or null for direct queries")
      .that(qk_nope > 0 && v_dim > 0, "qk_nope_head_dim and v_head_dim must be positive")
      .that(qk_rope > 0 && qk_rope % 2 == 0,
            "qk_rope_head_dim must be positive and even: rotary channels come in pairs",
            {{"qk_rope_head_dim", qk_rope}})
      .that(layers == dense_layers || experts > 0,
            "n_routed_experts must be positive where layers have experts",
            {{"n_routed_experts", experts},
             {"num_hidden_layers", layers},
             {"first_k_dense_replace", dense_layers}})
      .that(experts == 0 || expert_inner > 0, "moe_intermediate_size must be positive")
      .that(shared_experts >= 0, "n_shared_experts must not be negative")
      .that(expert_ranks > 0 && expert_rank >= 0 && expert_rank < expert_ranks &&
                experts % std::max<index_t>(expert_ranks, 1) == 0,
            "the ranks that share experts must divide them",
            {{"n_routed_experts", experts}, {"ranks", expert_ranks}, {"rank", expert_rank}})
      .that(epsilon > 0 && latent_epsilon > 0, "rms_norm_eps must be positive")
      .that(rope.theta > 1, "rope_theta must be greater than 1")
      .that(rope.factor >= 1 && rope.original_length > 0,
            "rope_scaling needs a factor of at least 1 and a positive "
            "original_max_position_embeddings")
      .that(max_positions > 0, "max_position_embeddings must be positive");
  for (const model_stage& stage : held)
    need.that(0 <= stage.first && stage.first < stage.last && stage.last <= layers,
              "a stage must have at least one block, and none that the network lacks",
              {{"first", stage.first}, {"last", stage.last}, {"num_hidden_layers", layers}});
  if (status bad = need.verdict(); !bad) return bad;
  return experts > 0 ? moe().router.check() : status{};
}

inline model_config model_config::deepseek_v3() {
  return {.vocab = 129280,
          .hidden = 7168,
          .layers = 61,
          .dense_layers = 3,
          .mtp_depth = 1,
          .dense_inner = 18432,
          .heads = 128,
          .q_rank = 1536,
          .kv_rank = 512,
          .qk_nope = 128,
          .qk_rope = 64,
          .v_dim = 128,
          .expert_inner = 2048,
          .experts = 256,
          .shared_experts = 1,
          .top_k = 8,
          .groups = 8,
          .kept_groups = 4,
          .routed_scale = 2.5,
          .rope = {.factor = 40, .original_length = 4096},
          .max_positions = 163840};
}

inline model_config model_config::deepseek_v2() {
  return {.vocab = 102400,
          .hidden = 5120,
          .layers = 60,
          .dense_layers = 1,
          .dense_inner = 12288,
          .heads = 128,
          .q_rank = 1536,
          .kv_rank = 512,
          .qk_nope = 128,
          .qk_rope = 64,
          .v_dim = 128,
          .expert_inner = 1536,
          .experts = 160,
          .shared_experts = 2,
          .top_k = 6,
          .groups = 8,
          .kept_groups = 3,
          .scoring = router_scoring::softmax,
          .normalise_gates = gate_norm::none,
          .routed_scale = 16,
          .rope = {.factor = 40, .original_length = 4096},
          .max_positions = 163840,
          .bos_id = 100000,
          .eos_id = 100001};
}

inline model_config model_config::deepseek_v2_lite() {
  return {.vocab = 102400,
          .hidden = 2048,
          .layers = 27,
          .dense_layers = 1,
          .dense_inner = 10944,
          .heads = 16,
          .q_rank = 0,
          .kv_rank = 512,
          .qk_nope = 128,
          .qk_rope = 64,
          .v_dim = 128,
          .expert_inner = 1408,
          .experts = 64,
          .shared_experts = 2,
          .top_k = 6,
          .scoring = router_scoring::softmax,
          .normalise_gates = gate_norm::none,
          .rope = {.factor = 40, .original_length = 4096, .mscale = 0.707, .mscale_all_dim = 0.707},
          .max_positions = 163840,
          .bos_id = 100000,
          .eos_id = 100001};
}

inline model_config model_config::moonlight_16b() {
  return {.vocab = 163840,
          .hidden = 2048,
          .layers = 27,
          .dense_layers = 1,
          .dense_inner = 11264,
          .heads = 16,
          .q_rank = 0,
          .kv_rank = 512,
          .qk_nope = 128,
          .qk_rope = 64,
          .v_dim = 128,
          .expert_inner = 1408,
          .experts = 64,
          .shared_experts = 2,
          .top_k = 6,
          .routed_scale = 2.446,
          .epsilon = 1e-5,
          .rope = {.theta = 50000},
          .max_positions = 8192,
          .bos_id = 163584,
          .eos_id = 163586};
}

inline model_config model_config::tiny() {
  return {.vocab = 512,
          .hidden = 256,
          .layers = 4,
          .dense_layers = 1,
          .mtp_depth = 1,
          .dense_inner = 512,
          .heads = 4,
          .q_rank = 96,
          .kv_rank = 64,
          .qk_nope = 32,
          .qk_rope = 16,
          .v_dim = 32,
          .expert_inner = 128,
          .experts = 16,
          .shared_experts = 1,
          .top_k = 4,
          .groups = 4,
          .kept_groups = 2,
          .routed_scale = 2.5,
          .rope = {.factor = 4, .original_length = 64},
          .max_positions = 256};
}

inline model_config model_config::midi() {
  return {.vocab = 512,
          .hidden = 384,
          .layers = 3,
          .dense_layers = 1,
          .mtp_depth = 1,
          .dense_inner = 768,
          .heads = 6,
          .q_rank = 256,
          .kv_rank = 128,
          .qk_nope = 32,
          .qk_rope = 16,
          .v_dim = 64,
          .expert_inner = 256,
          .experts = 8,
          .shared_experts = 1,
          .top_k = 2,
          .groups = 4,
          .kept_groups = 2,
          .routed_scale = 2.5,
          .rope = {.factor = 4, .original_length = 64},
          .max_positions = 256};
}

inline model_config model_config::mini() {
  return {.vocab = 4096,
          .hidden = 512,
          .layers = 8,
          .dense_layers = 2,
          .mtp_depth = 1,
          .dense_inner = 1536,
          .heads = 8,
          .q_rank = 256,
          .kv_rank = 128,
          .qk_nope = 64,
          .qk_rope = 32,
          .v_dim = 64,
          .expert_inner = 256,
          .experts = 64,
          .shared_experts = 1,
          .top_k = 8,
          .groups = 8,
          .kept_groups = 4,
          .routed_scale = 2.5,
          .rope = {.factor = 8, .original_length = 256},
          .max_positions = 2048};
}

inline model_config model_config::small_1b() {
  return {.vocab = 32768,
          .hidden = 1024,
          .layers = 10,
          .dense_layers = 1,
          .mtp_depth = 1,
          .dense_inner = 4096,
          .heads = 8,
          .q_rank = 512,
          .kv_rank = 256,
          .qk_nope = 128,
          .qk_rope = 64,
          .v_dim = 128,
          .expert_inner = 512,
          .experts = 64,
          .shared_experts = 1,
          .top_k = 6,
          .groups = 8,
          .kept_groups = 4,
          .routed_scale = 2.5,
          .rope = {},
          .max_positions = 4096};
}

inline model_config model_config::bench_3b() {
  model_config config = small_1b();
  config.hidden = 2048;
  config.layers = 8;
  config.mtp_depth = 0;
  config.dense_inner = 8192;
  config.heads = 16;
  config.q_rank = 768;
  config.kv_rank = 512;
  config.expert_inner = 1024;
  return config;
}

}  // namespace dsv3::inline DSV3_ABI
