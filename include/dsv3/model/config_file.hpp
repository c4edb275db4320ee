// SPDX-License-Identifier: MIT
// config.json as model repositories hold it: read with every key known, written so that others can read it.
#pragma once

#include <dsv3/io/json.hpp>
#include <dsv3/io/safetensors/format.hpp>
#include <dsv3/model/config.hpp>
#include <dsv3/number/scale.hpp>
#include <dsv3/tensor/layout_policy.hpp>
#include <dsv3/tensor/scaled.hpp>

#include <filesystem>
#include <optional>
#include <set>
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace dsv3::inline DSV3_ABI {

/// What a config.json says of a model and of the weights beside it.
struct config_file {
  model_config model;
  rope_layout rope = rope_layout::interleaved;  // how the weights' rotary rows lie
  std::optional<scale_kind> block_scales;       // of weights in 8 bits; none where they are plain numbers
};

/// quantization_config as the released files have it: weights in E4M3 with one scale per block of 128 x 128.
/// Answers what the scales are. `where` names the object in errors; anything else is refused by its key.
inline scale_kind parse_quantization(const json& object, const std::string& where) {
  json_fields fields{object, where};
  const auto only = [&](const std::string& key, const std::string& expected) {
    if (const std::string& found = fields.text(key); found != expected)
      fields.refuse(key, found, expected + ", 8-bit weights in blocks");
  };
  only("quant_method", "fp8");
  only("fmt", "e4m3");
  if (fields.text("activation_scheme", "dynamic") != "dynamic")
    fields.refuse("activation_scheme", object["activation_scheme"],
                  "dynamic: activations are scaled by what they are");
  const std::vector<index_t> block = fields.integers("weight_block_size", positive);
  if (block != std::vector<index_t>{block_tile::rows, block_tile::columns})
    fields.refuse("weight_block_size", object["weight_block_size"], "[128, 128]");
  const std::string scales = fields.text("scale_fmt", "float");
  if (scales != "float" && scales != "ue8m0")
    fields.refuse("scale_fmt", scales, "ue8m0, or no such key for scales that are no powers of two");
  // Which weights are in 8 bits, each of them says itself.
  require(fields.unknown({"modules_to_not_convert"}));
  return scales == "ue8m0" ? scale_kind::power_of_two : scale_kind::real;
}

/// What config.json says beside weights that this library has written in 8 bits.
inline json quantization_json() {
  return {{"activation_scheme", "dynamic"},
          {"fmt", "e4m3"},
          {"quant_method", "fp8"},
          {"weight_block_size", {block_tile::rows, block_tile::columns}}};
}

/// True of the weights that the released files hold in 8 bits: those of the linear layers, but not of
/// embedding, head, router and MTP's joint projection.
inline bool stored_in_blocks(std::string_view name) {
  static constexpr std::string_view linear[] = {"q_proj",    "q_a_proj", "q_b_proj",  "kv_a_proj_with_mqa",
                                                "kv_b_proj", "o_proj",   "gate_proj", "up_proj",
                                                "down_proj"};
  constexpr std::string_view end = ".weight";
  if (!name.ends_with(end)) return false;
  name.remove_suffix(end.size());
  const std::string_view last = name.substr(name.rfind('.') + 1);
  return std::ranges::find(linear, last) != std::end(linear);
}

namespace detail {

// Keys of published files that change nothing here: names of Python modules, hints to other programs, values
// that follow from others, and settings of a training recipe that is not ours.
inline const std::set<std::string>& harmless_config_keys() {
  static const std::set<std::string> keys{"architectures",  "attention_dropout",
                                          "auto_map",       "aux_loss_alpha",
                                          "dtype",          "ep_size",
                                          "head_dim",       "output_attentions",
                                          "pad_token_id",   "output_hidden_states",
                                          "pretraining_tp", "output_router_logits",
                                          "qk_head_dim",    "return_dict",
                                          "seq_aux",        "torch_dtype",
                                          "use_cache",      "transformers_version"};
  return keys;
}

/// Reads one config.json; every refusal names the file and the key.
class config_reader {
 public:
  config_reader(const json& object, const std::string& source)
      : object_(object), fields_(object, source), source_(source) {}

  config_file read() {
    file_.model = {};
    sizes();
    attention();
    experts();
    rope();
    training();
    weights();
    require(fields_.unknown(ignored()));
    if (status bad = file_.model.check(); !bad) raise(source_ + ": " + bad.message());
    // Element counts, bytes and FLOPs of a config are computed in 63 bits.
    if (const double count = rough_parameters(); count > 1e15)
      raise(source_ + ": the sizes describe about " + json(count).dump() +
            " parameters, expected at most 1e15");
    return std::move(file_);
  }

 private:
  static constexpr integer_range width{1, 1 << 20}, count{1, 1 << 20}, optional_count{0, 1 << 20};

  void sizes() {
    model_config& c = file_.model;
    c.vocab = fields_.integer("vocab_size", {1, 1 << 24});
    c.hidden = fields_.integer("hidden_size", width);
    c.layers = fields_.integer("num_hidden_layers", count);
    c.mtp_depth = fields_.integer("num_nextn_predict_layers", optional_count, 0);
    c.max_positions = fields_.integer("max_position_embeddings", {1, index_t{1} << 40});
    c.epsilon = positive(fields_, object_, "rms_norm_eps", 1e-6);
    // Both latent norms have this value in every published implementation, whatever rms_norm_eps says.
    c.latent_epsilon = 1e-6;
    const std::int32_t last_id = static_cast<std::int32_t>(c.vocab - 1);
    c.bos_id = static_cast<std::int32_t>(fields_.integer("bos_token_id", {0, last_id}, 0));
    c.eos_id = static_cast<std::int32_t>(fields_.integer("eos_token_id", {0, last_id}, std::min(1, last_id)));
    only("hidden_act", "silu");
    only("tie_word_embeddings", false);
  }

  void attention() {
    model_config& c = file_.model;
    c.heads = fields_.integer("num_attention_heads", count);
    if (const index_t found = fields_.integer("num_key_value_heads", count, c.heads); found != c.heads)
      fields_.refuse("num_key_value_heads", found,
                     "num_attention_heads, " + std::to_string(c.heads) + ": every head has its own keys");
    // Null says that queries are not compressed; a file that leaves the key out says nothing.
    if (!object_.contains("q_lora_rank"))
      raise(source_ + ": q_lora_rank is missing, expected a positive integer or null");
    c.q_rank = fields_.integer("q_lora_rank", width, 0);
    c.kv_rank = fields_.integer("kv_lora_rank", width);
    c.qk_nope = fields_.integer("qk_nope_head_dim", width);
    c.qk_rope = fields_.integer("qk_rope_head_dim", width);
    c.v_dim = fields_.integer("v_head_dim", width);
    only("attention_bias", false);
  }

  void experts() {
    model_config& c = file_.model;
    const std::string& type = fields_.text("model_type");
    if (type != "deepseek_v3" && type != "deepseek_v2")
      fields_.refuse("model_type", type, "deepseek_v3 or deepseek_v2");
    c.experts = fields_.integer("n_routed_experts", optional_count, 0);
    c.dense_layers = fields_.integer("first_k_dense_replace", {0, c.layers}, c.experts > 0 ? 0 : c.layers);
    if (c.experts == 0 || c.dense_layers > 0)
      c.dense_inner = fields_.integer("intermediate_size", width);
    else
      c.dense_inner = fields_.integer("intermediate_size", width, 0);
    if (fields_.integer("moe_layer_freq", {}, 1) != 1)
      fields_.refuse("moe_layer_freq", object_["moe_layer_freq"],
                     "1: every layer after the dense ones has experts");
    scoring(type == "deepseek_v2" ? "softmax" : "sigmoid");
    c.expert_inner = fields_.integer("moe_intermediate_size", width, 0);
    c.shared_experts = fields_.integer("n_shared_experts", optional_count, 0);
    c.top_k = fields_.integer("num_experts_per_tok", optional_count, 0);
    c.normalise_gates = fields_.boolean("norm_topk_prob", c.scoring == router_scoring::sigmoid)
                            ? gate_norm::sum_to_one
                            : gate_norm::none;
    c.routed_scale = positive(fields_, object_, "routed_scaling_factor", 1);
    if (c.experts > 0 && c.expert_inner == 0)
      raise(source_ + ": moe_intermediate_size is missing, expected a positive integer");
    if (c.experts > 0 && c.top_k == 0)
      raise(source_ + ": num_experts_per_tok is missing, expected a positive integer");
  }

  void scoring(const std::string& usual) {
    model_config& c = file_.model;
    const std::string scored = fields_.text("scoring_func", usual);
    if (scored != "sigmoid" && scored != "softmax")
      fields_.refuse("scoring_func", scored, "sigmoid or softmax");
    c.scoring = scored == "sigmoid" ? router_scoring::sigmoid : router_scoring::softmax;
    const bool biased = c.scoring == router_scoring::sigmoid;
    const std::string method = fields_.text("topk_method", biased ? "noaux_tc" : "greedy");
    if (biased && method != "noaux_tc")
      fields_.refuse("topk_method", method, "noaux_tc where scores are sigmoids");
    if (!biased && method != "greedy" && method != "group_limited_greedy")
      fields_.refuse("topk_method", method, "greedy or group_limited_greedy where scores are softmaxes");
    c.groups = fields_.integer("n_group", count, 1);
    c.kept_groups = fields_.integer("topk_group", count, 1);
    if (method == "greedy") c.groups = c.kept_groups = 1;  // it does not look at groups
  }

  // The base of the frequencies stands beside rope_scaling, inside it, inside rope_parameters, or is 10000.
  void rope() {
    const bool scaling = fields_.present("rope_scaling"), parameters = fields_.present("rope_parameters");
    if (scaling && parameters)
      raise(source_ + ": both rope_scaling and rope_parameters found, expected one of the two spellings");
    const char* key = scaling ? "rope_scaling" : "rope_parameters";
    file_.model.rope.theta = positive(fields_, object_, "rope_theta", 10000);
    if (scaling || parameters) stretch(fields_.object(key), object_[key]);
    file_.rope =
        fields_.boolean("rope_interleave", true) ? rope_layout::interleaved : rope_layout::half_split;
  }

  void stretch(json_fields inside, const json& object) {
    rope_config& rope = file_.model.rope;
    const double theta = positive(inside, object, "rope_theta", rope.theta);
    if (fields_.present("rope_theta") && theta != rope.theta)
      inside.refuse("rope_theta", object["rope_theta"],
                    "the " + json(rope.theta).dump() + " that stands outside");
    rope.theta = theta;
    const std::string type = inside.text("rope_type", inside.text("type", "default"));
    if (inside.text("type", type) != type) inside.refuse("type", object["type"], "the rope_type, " + type);
    if (type == "yarn") {
      rope.factor = positive(inside, object, "factor");
      rope.original_length = positive(inside, object, "original_max_position_embeddings");
      rope.beta_fast = positive(inside, object, "beta_fast", 32);
      rope.beta_slow = positive(inside, object, "beta_slow", 1);
      // Readers disagree on a file that gives one of these without the other.
      if (inside.present("mscale") != inside.present("mscale_all_dim"))
        raise(source_ + ": one of mscale and mscale_all_dim is missing, expected both or neither");
      rope.mscale = positive(inside, object, "mscale", 1);
      rope.mscale_all_dim = inside.present("mscale_all_dim") ? positive(inside, object, "mscale_all_dim") : 0;
    } else if (type != "default") {
      inside.refuse(inside.present("rope_type") ? "rope_type" : "type", type, "yarn or default");
    }
    require(inside.unknown());
  }

  void training() {
    model_config& c = file_.model;
    c.init_deviation = fields_.number("initializer_range", c.init_deviation);
    if (!(c.init_deviation >= 0))
      fields_.refuse("initializer_range", object_["initializer_range"], "a number of at least 0");
    const std::string reads = fields_.text("mtp_input", "post_final_norm");
    if (reads != "post_final_norm" && reads != "pre_final_norm")
      fields_.refuse("mtp_input", reads, "post_final_norm or pre_final_norm");
    c.mtp_reads = reads == "post_final_norm" ? mtp_input::post_final_norm : mtp_input::pre_final_norm;
  }

  void weights() {
    if (!fields_.present("quantization_config")) return;
    file_.block_scales =
        parse_quantization(object_["quantization_config"], source_ + ": quantization_config");
  }

  // ---- the parts the sections above are made of

  static double positive(json_fields& fields, const json& object, const char* key) {
    const double found = fields.number(key);
    if (!(found > 0)) fields.refuse(key, object[key], "a positive number");
    return found;
  }
  static double positive(json_fields& fields, const json& object, const char* key, double fallback) {
    return fields.present(key) ? positive(fields, object, key) : fallback;
  }
  void only(const std::string& key, const json& expected) {
    if (fields_.present(key) && object_[key] != expected) fields_.refuse(key, object_[key], expected.dump());
  }
  /// Keys that begin with an underscore are somebody's notes.
  std::set<std::string> ignored() const {
    std::set<std::string> keys = harmless_config_keys();
    for (const auto& [key, value] : object_.items())
      if (key.starts_with('_')) keys.insert(key);
    return keys;
  }
  double rough_parameters() const {
    const model_config& c = file_.model;
    const auto d = [](index_t extent) { return static_cast<double>(extent); };
    const double latents = d(c.q_rank) + d(c.kv_rank) + d(c.hidden) + d(c.qk_rope);
    const double attention =
        latents * (d(c.heads) * (d(c.qk_nope) + d(c.qk_rope) + d(c.v_dim)) + d(c.hidden));
    const double feed_forward =
        3 * d(c.hidden) * (d(c.dense_inner) + (d(c.experts) + d(c.shared_experts)) * d(c.expert_inner));
    return 2 * d(c.vocab) * d(c.hidden) +
           (d(c.layers) + d(c.mtp_depth)) * (2 * attention + feed_forward + 2 * d(c.hidden) * d(c.hidden));
  }

  const json& object_;
  json_fields fields_;
  std::string source_;
  config_file file_;
};

}  // namespace detail

/// The model that a parsed config.json describes; `source` names it in errors.
inline config_file parse_config(const json& object, const std::string& source) {
  return detail::config_reader{object, source}.read();
}

/// Reads `path`, or config.json in it where it is a folder.
inline config_file read_config(const std::string& path) {
  std::error_code ignored;  // what cannot be examined cannot be opened either
  const std::filesystem::path given{path};
  const std::string file =
      std::filesystem::is_directory(given, ignored) ? (given / "config.json").string() : path;
  return parse_config(read_json(file), file);
}

/// The config.json of a model whose weights lie interleaved and have this element type.
inline json config_json(const model_config& c, dtype weights = dtype::bf16) {
  if (c.latent_epsilon != 1e-6)
    raise("model config: latent_epsilon is " + json(c.latent_epsilon).dump() +
          ", expected 1e-06: config.json has no key for it");
  const bool sigmoid = c.scoring == router_scoring::sigmoid;
  json object = {
      {"architectures", {sigmoid ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"}},
      {"model_type", sigmoid ? "deepseek_v3" : "deepseek_v2"},
      {"vocab_size", c.vocab},
      {"hidden_size", c.hidden},
      {"num_hidden_layers", c.layers},
      {"num_nextn_predict_layers", c.mtp_depth},
      {"first_k_dense_replace", c.dense_layers},
      {"moe_layer_freq", 1},
      {"intermediate_size", c.dense_inner > 0 ? json(c.dense_inner) : json(nullptr)},
      {"num_attention_heads", c.heads},
      {"num_key_value_heads", c.heads},
      {"q_lora_rank", c.q_rank > 0 ? json(c.q_rank) : json(nullptr)},
      {"kv_lora_rank", c.kv_rank},
      {"qk_nope_head_dim", c.qk_nope},
      {"qk_rope_head_dim", c.qk_rope},
      {"v_head_dim", c.v_dim},
      {"n_routed_experts", c.experts > 0 ? json(c.experts) : json(nullptr)},
      {"n_shared_experts", c.shared_experts > 0 ? json(c.shared_experts) : json(nullptr)},
      {"scoring_func", sigmoid ? "sigmoid" : "softmax"},
      {"topk_method", sigmoid        ? "noaux_tc"
                      : c.groups > 1 ? "group_limited_greedy"
                                     : "greedy"},
      {"n_group", c.groups},
      {"topk_group", c.kept_groups},
      {"norm_topk_prob", c.normalise_gates == gate_norm::sum_to_one},
      {"routed_scaling_factor", c.routed_scale},
      {"rms_norm_eps", c.epsilon},
      {"rope_theta", c.rope.theta},
      {"rope_scaling", nullptr},
      {"rope_interleave", true},
      {"max_position_embeddings", c.max_positions},
      {"initializer_range", c.init_deviation},
      {"hidden_act", "silu"},
      {"attention_bias", false},
      {"tie_word_embeddings", false},
      {"bos_token_id", c.bos_id},
      {"eos_token_id", c.eos_id},
      {"torch_dtype", weights == dtype::bf16  ? "bfloat16"
                      : weights == dtype::f64 ? "float64"
                                              : "float32"},
      {"mtp_input", c.mtp_reads == mtp_input::post_final_norm ? "post_final_norm" : "pre_final_norm"}};
  if (c.experts > 0) {
    object["moe_intermediate_size"] = c.expert_inner;
    object["num_experts_per_tok"] = c.top_k;
  }
  if (c.rope.stretched()) {
    json& scaling = object["rope_scaling"] = {{"type", "yarn"},
                                              {"rope_type", "yarn"},
                                              {"factor", c.rope.factor},
                                              {"original_max_position_embeddings", c.rope.original_length},
                                              {"beta_fast", c.rope.beta_fast},
                                              {"beta_slow", c.rope.beta_slow}};
    if (c.rope.mscale_all_dim > 0)
      scaling["mscale"] = c.rope.mscale, scaling["mscale_all_dim"] = c.rope.mscale_all_dim;
  }
  return object;
}

inline void write_config(const std::string& path, const model_config& config, dtype weights = dtype::bf16) {
  write_json(path, config_json(config, weights));
}

/// Good, or the first key in which two models differ; `found` and `expected` name them in the sentence.
inline status same_model(const model_config& a, const std::string& found, const model_config& b,
                         const std::string& expected) {
  const json one = config_json(a), other = config_json(b);
  for (const auto& [key, value] : one.items()) {
    const auto twin = other.find(key);
    const json absent;
    const json& wanted = twin == other.end() ? absent : *twin;
    if (value != wanted)
      return status{found + ": " + key + " is " + detail::quoted(value) + ", " + expected + " has " +
                    detail::quoted(wanted)};
  }
  return {};
}

}  // namespace dsv3::inline DSV3_ABI
