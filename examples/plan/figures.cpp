// SPDX-License-Identifier: MIT
#include "figures.hpp"

namespace plan {

using dsv3::index_t;
using dsv3::json;
using dsv3::model_account;
using dsv3::model_config;
using dsv3::parameter_counts;

namespace {

class list {
 public:
  void group(const std::string& name, const std::string& unit) { group_ = name, unit_ = unit; }
  void add(const std::string& name, const json& value, const std::string& formula) {
    figures_.push_back({group_, name, value, unit_, formula});
  }
  std::vector<figure> take() { return std::move(figures_); }

 private:
  std::string group_, unit_;
  std::vector<figure> figures_;
};

// The tensors of one block under a prefix, as the table of contents has them.
void add_tensors(list& to, const dsv3::block_config& c, const std::string& prefix) {
  dsv3::block_tensors<float> blank;
  blank.config = c;
  dsv3::for_each_field(
      [&](const std::string& name, const dsv3::shape& s, auto&) {
        if (name.starts_with(prefix)) to.add(name.substr(prefix.size()), s.elements(), to_string(s));
      },
      blank);
}

void add_layers(list& to, const model_config& c) {
  to.group("attention_layer", "parameters");
  add_tensors(to, c.block(0), "self_attn.");
  to.add("total", dsv3::elements_of<dsv3::mla_tensors<float>>(c.attention()), "sum of the above");
  if (c.dense_layers > 0) {
    to.group("dense_layer", "parameters");
    to.add("mlp", 3 * c.hidden * c.dense_inner, "3 hidden dense_inner");
    to.add("norms", 2 * c.hidden, "2 hidden");
  }
  if (c.experts == 0) return;
  const index_t expert = 3 * c.hidden * c.expert_inner;
  const bool biased = c.scoring == dsv3::router_scoring::sigmoid;
  to.group("expert_layer", "parameters");
  to.add("one_expert", expert, "3 hidden expert_inner");
  to.add("routed_experts", c.experts * expert, "experts 3 hidden expert_inner");
  to.add("shared_experts", c.shared_experts * expert, "shared_experts 3 hidden expert_inner");
  to.add("router", c.experts * c.hidden, "experts hidden");
  to.add("router_bias", biased ? c.experts : 0, biased ? "experts" : "none with softmax scores");
  to.add("experts_and_router",
         (c.experts + c.shared_experts) * expert + c.experts * (c.hidden + (biased ? 1 : 0)),
         "sum of the above, one_expert aside");
  to.add("norms", 2 * c.hidden, "2 hidden");
}

void add_parameters(list& to, const model_account& a) {
  const parameter_counts& n = a.main();
  to.group("parameters", "parameters");
  to.add("embedding", n.embedding, "vocab hidden");
  to.add("head", n.head, "vocab hidden");
  to.add("attention", n.attention, "layers attention_layer.total");
  to.add("norms", n.norms, "(2 layers + 1) hidden");
  to.add("dense", n.dense, "dense_layers 3 hidden dense_inner");
  to.add("routed_experts", n.routed_experts, "(layers - dense_layers) experts 3 hidden expert_inner");
  to.add("shared_experts", n.shared_experts, "(layers - dense_layers) shared_experts 3 hidden expert_inner");
  to.add("router", n.router, "(layers - dense_layers) experts hidden");
  to.add("router_bias", n.router_bias, "(layers - dense_layers) experts, 0 with softmax scores");
  to.add("total", n.total(), "sum of the above");
  to.add("activated", a.activated(), "total - routed_experts (1 - top_k / experts)");
  to.add("activated_without_embedding", a.activated_without_embedding(), "activated - embedding");
  to.group("parameters", "bytes");
  to.add("bf16_bytes", 2 * n.total(), "2 total");
}

void add_mtp(list& to, const model_account& a) {
  if (a.config().mtp_depth == 0) return;
  const parameter_counts& n = a.mtp();
  to.group("mtp", "parameters");
  to.add("attention", n.attention, "mtp_depth attention_layer.total");
  to.add("norms", n.norms, "mtp_depth (2 + 3) hidden");
  to.add("projection", n.projection, "mtp_depth hidden 2 hidden");
  to.add("feed_forward", n.dense + n.moe(), "mtp_depth expert_layer.experts_and_router");
  to.add("unique", n.total(), "sum of the above");
  to.add("stored_copies", a.mtp_copies(), "mtp_depth (embedding + head)");
  to.add("stored", n.total() + a.mtp_copies(), "unique + stored_copies");
  to.add("activated_alone", a.mtp_activated_alone(), "unique - routed experts (1 - top_k / experts)");
  to.add("activated", a.mtp_activated(), "activated_alone + mtp_depth (embedding + head)");
  to.add("file_total", a.main().total() + n.total() + a.mtp_copies(), "parameters.total + stored");
}

void add_cache(list& to, const model_account& a) {
  to.group("cache_per_token", "bytes");
  to.add("layer", a.cache_bytes_per_layer(), "2 (kv_rank + qk_rope)");
  to.add("model", a.cache_bytes(), "layers layer");
  to.add("model_with_mtp", a.cache_bytes_with_mtp(), "(layers + mtp_depth) layer");
  to.add("fp8_layer", a.fp8_cache_bytes_per_layer(), "kv_rank + 4 ceil(kv_rank / 128) + 2 qk_rope");
  to.add("fp8_model", a.fp8_cache_bytes(), "layers fp8_layer");
  to.add("plain_attention_layer", a.plain_cache_bytes_per_layer(), "2 heads (qk_nope + qk_rope + v_dim)");
  to.add("plain_attention_model", a.plain_cache_bytes(), "layers plain_attention_layer");
}

void add_flops(list& to, const model_account& a, index_t length, index_t context) {
  const index_t layers = a.config().layers;
  to.group("flops_per_token", "");
  to.add("length", length, "tokens of a row, --seq");
  to.add("matrix_parameters", a.matrix_parameters(),
         "parameters.activated_without_embedding - norms - latent norms - router_bias");
  to.group("flops_per_token", "FLOPs");
  to.add("linear_forward", 2 * a.matrix_parameters(), "2 matrix_parameters");
  for (const auto how : {model_account::counting::causal, model_account::counting::non_causal}) {
    const bool causal = how == model_account::counting::causal;
    const std::string kind = causal ? "_causal" : "_non_causal",
                      keys = causal ? "(length + 1) / 2" : "length";
    to.add("attention_forward" + kind,
           static_cast<double>(layers) * a.attention_flops_per_layer(model_account::keys(length, how)),
           "layers 2 heads (qk_nope + qk_rope + v_dim) " + keys);
    to.add("forward" + kind, a.forward_flops(length, how), "linear_forward + attention_forward" + kind);
    to.add("training" + kind, a.training_flops(length, how), "3 forward" + kind);
    if (a.config().mtp_depth == 0) continue;
    to.add("mtp_training" + kind, a.mtp_training_flops(length, how),
           "3 (2 mtp_matrix_parameters + mtp_depth 2 heads (qk_nope + qk_rope + v_dim) " + keys + ")");
    to.add("training_with_mtp" + kind, a.training_flops(length, how) + a.mtp_training_flops(length, how),
           "training" + kind + " + mtp_training" + kind);
  }
  if (a.config().mtp_depth > 0) {
    to.group("flops_per_token", "");
    to.add("mtp_matrix_parameters", a.mtp_matrix_parameters(),
           "mtp.activated_alone - vectors - router_bias + mtp_depth head");
  }
  to.group("decode_per_token", "");
  to.add("context", context, "tokens in the cache, --context");
  to.group("decode_per_token", "FLOPs");
  to.add("attention_per_key_and_layer", a.decode_attention_flops_per_layer(1),
         "2 heads (2 kv_rank + qk_rope)");
  to.add("attention", static_cast<double>(layers) * a.decode_attention_flops_per_layer(context),
         "layers attention_per_key_and_layer context");
  to.add("total", a.decode_flops(context), "flops_per_token.linear_forward + attention");
}

}  // namespace

std::vector<figure> model_figures(const model_account& account, index_t length, index_t context) {
  list figures;
  add_layers(figures, account.config());
  add_parameters(figures, account);
  add_mtp(figures, account);
  add_cache(figures, account);
  add_flops(figures, account, length, context);
  return figures.take();
}

}  // namespace plan
