// SPDX-License-Identifier: MIT
// config.json: both spellings, what is refused and how, and the round trip of every named size.
#include <dsv3/model/config_file.hpp>
#include <dsv3/model/named_config.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace dsv3;

namespace {

// A published-looking file: what a test does not set is as in the released configs.
json published() {
  return json::parse(R"({
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "auto_map": {"AutoConfig": "a.B"},
    "vocab_size": 160, "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 32,
    "num_hidden_layers": 3, "num_nextn_predict_layers": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 48, "kv_lora_rank": 32,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true,
    "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-05, "max_position_embeddings": 256, "hidden_act": "silu", "attention_bias": false,
    "attention_dropout": 0.0, "initializer_range": 0.02, "bos_token_id": 0, "eos_token_id": 1,
    "rope_theta": 50000, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
    "rope_scaling": {"type": "yarn", "factor": 8, "original_max_position_embeddings": 32, "beta_fast": 32,
                     "beta_slow": 1, "mscale": 0.7, "mscale_all_dim": 0.9}
  })");
}

config_file parsed(const json& object) { return parse_config(object, "c.json"); }

std::string refused(const json& object) {
  return support::raised([&] { parsed(object); });
}
std::string refused(const std::string& key, const json& value) {
  json object = published();
  object[key] = value;
  return refused(object);
}
std::string refused_without(const std::string& key) {
  json object = published();
  object.erase(key);
  return refused(object);
}

}  // namespace

TEST_CASE("every field arrives") {
  const model_config c = parsed(published()).model;
  CHECK(c.vocab == 160);
  CHECK(c.hidden == 64);
  CHECK(c.layers == 3);
  CHECK(c.dense_layers == 1);
  CHECK(c.mtp_depth == 1);
  CHECK(c.dense_inner == 128);
  CHECK(c.heads == 4);
  CHECK(c.q_rank == 48);
  CHECK(c.kv_rank == 32);
  CHECK(c.qk_nope == 16);
  CHECK(c.qk_rope == 8);
  CHECK(c.v_dim == 16);
  CHECK(c.expert_inner == 32);
  CHECK(c.experts == 16);
  CHECK(c.shared_experts == 1);
  CHECK(c.top_k == 4);
  CHECK(c.groups == 4);
  CHECK(c.kept_groups == 2);
  CHECK(c.scoring == router_scoring::sigmoid);
  CHECK(c.normalise_gates == gate_norm::sum_to_one);
  CHECK(c.routed_scale == 2.5);
  CHECK(c.epsilon == 1e-5);
  CHECK(c.latent_epsilon == 1e-6);
  CHECK(
      c.rope ==
      rope_config{.theta = 50000, .factor = 8, .original_length = 32, .mscale = 0.7, .mscale_all_dim = 0.9});
  CHECK(c.max_positions == 256);
  CHECK(c.mtp_reads == mtp_input::post_final_norm);
  CHECK(c.init_deviation == 0.02);
}

TEST_CASE("the spellings of the rope fields mean the same") {
  const rope_config expected = parsed(published()).model.rope;
  json inside = published();  // theta inside rope_scaling
  inside["rope_scaling"]["rope_theta"] = 50000.0;
  inside["rope_scaling"]["rope_type"] = "yarn";
  inside.erase("rope_theta");
  CHECK(parsed(inside).model.rope == expected);

  json recent = inside;  // all of it under the recent name
  recent["rope_parameters"] = recent["rope_scaling"];
  recent.erase("rope_scaling");
  CHECK(parsed(recent).model.rope == expected);
  recent["rope_scaling"] = nullptr;
  CHECK(parsed(recent).model.rope == expected);

  json plain = published();
  plain["rope_scaling"] = nullptr;
  CHECK(parsed(plain).model.rope == rope_config{.theta = 50000});
  plain.erase("rope_scaling");
  plain.erase("rope_theta");
  plain["rope_parameters"] = {{"rope_theta", 50000.0}, {"rope_type", "default"}};
  CHECK(parsed(plain).model.rope == rope_config{.theta = 50000});

  plain.erase("rope_parameters");
  CHECK(parsed(plain).model.rope == rope_config{.theta = 10000});

  json unscaled = published();  // neither mscale: cos and sin are stretched, the softmax is not
  unscaled["rope_scaling"].erase("mscale");
  unscaled["rope_scaling"].erase("mscale_all_dim");
  const rope_config rope = parsed(unscaled).model.rope;
  CHECK(rope.softmax_scale(16) == doctest::Approx(0.25));
  CHECK(rope.attention_factor() == doctest::Approx(0.1 * std::log(8.0) + 1));
}

TEST_CASE("other layouts and formats of the weights are told apart") {
  json object = published();
  CHECK(parsed(object).rope == rope_layout::interleaved);
  CHECK_FALSE(parsed(object).block_scales);
  object["rope_interleave"] = false;
  object["quantization_config"] = quantization_json();
  CHECK(parsed(object).rope == rope_layout::half_split);
  CHECK(parsed(object).block_scales == scale_kind::real);
  object["quantization_config"]["scale_fmt"] = "ue8m0";
  CHECK(parsed(object).block_scales == scale_kind::power_of_two);
  object["quantization_config"]["modules_to_not_convert"] = {"lm_head"};
  CHECK(parsed(object).block_scales == scale_kind::power_of_two);
  object["quantization_config"] = nullptr;
  CHECK_FALSE(parsed(object).block_scales);
}

TEST_CASE("other quantisations are refused by the field") {
  const auto with = [](const std::string& key, const json& value) {
    json inner = quantization_json();
    inner[key] = value;
    return refused("quantization_config", inner);
  };
  const std::string where = "c.json: quantization_config: ";
  CHECK(with("quant_method", "gptq") ==
        where + "quant_method is \"gptq\", expected fp8, 8-bit weights in blocks");
  CHECK(with("quant_method", 8) == where + "quant_method is 8, expected a string");
  CHECK(with("fmt", "e5m2") == where + "fmt is \"e5m2\", expected e4m3, 8-bit weights in blocks");
  CHECK(with("activation_scheme", "static") ==
        where + "activation_scheme is \"static\", expected dynamic: activations are scaled by what they are");
  CHECK(with("weight_block_size", {64, 128}) == where + "weight_block_size is [64,128], expected [128, 128]");
  CHECK(with("weight_block_size", nullptr) ==
        where + "weight_block_size is null, expected an array, each a positive integer");
  CHECK(with("scale_fmt", "e8m0") ==
        where + "scale_fmt is \"e8m0\", expected ue8m0, or no such key for scales that are no powers of two");
  CHECK(with("bits", 8) == where + "bits is not a known key");
  json without = quantization_json();
  without.erase("weight_block_size");
  CHECK(refused("quantization_config", without) ==
        where + "weight_block_size is missing, expected an array, each a positive integer");
}

TEST_CASE("configs of softmax routers") {
  json object = published();
  object["model_type"] = "deepseek_v2";
  object.erase("scoring_func");
  object.erase("norm_topk_prob");
  object["topk_method"] = "greedy";
  object["q_lora_rank"] = nullptr;
  const model_config c = parsed(object).model;
  CHECK(c.scoring == router_scoring::softmax);
  CHECK(c.normalise_gates == gate_norm::none);
  CHECK(c.q_rank == 0);
  CHECK(c.groups == 1);
  object["topk_method"] = "group_limited_greedy";
  CHECK(parsed(object).model.groups == 4);
}

TEST_CASE("every named size survives the file") {
  const support::temporary_folder folder;
  for (const named_size& size : named_sizes) {
    const model_config c = size.make();
    write_config(folder / "config.json", c);
    const model_config back = read_config(folder.path()).model;
    const status same = same_model(back, "read", c, "written");
    CHECK_MESSAGE(same.good(), size.name << ": " << same.message());
  }
  model_config other = model_config::tiny();
  other.mtp_reads = mtp_input::pre_final_norm;
  other.rope.mscale_all_dim = 0;
  write_config(folder / "config.json", other, dtype::f32);
  const config_file back = read_config(folder / "config.json");
  CHECK(back.model.mtp_reads == mtp_input::pre_final_norm);
  CHECK(back.model.rope == other.rope);
  CHECK(same_model(back.model, "a", model_config::tiny(), "b").message() ==
        "a: mtp_input is \"pre_final_norm\", b has \"post_final_norm\"");
  other.latent_epsilon = 1e-5;
  CHECK(support::raised([&] { config_json(other); }) ==
        "model config: latent_epsilon is 1e-05, expected 1e-06: config.json has no key for it");
}

TEST_CASE("unknown keys") {
  CHECK(refused("hiden_size", 64) == "c.json: hiden_size is not a known key, the nearest is hidden_size");
  CHECK(refused("zebra", 64) == "c.json: zebra is not a known key");
  CHECK(refused("_comment", "ours") == "");
  json object = published();
  object["rope_scaling"]["beta_fasst"] = 3;
  CHECK(refused(object) == "c.json: rope_scaling: beta_fasst is not a known key, the nearest is beta_fast");
}

TEST_CASE("types, ranges and values are refused by the key's name") {
  CHECK(refused("hidden_size", "abc") ==
        "c.json: hidden_size is \"abc\", expected an integer from 1 to 1048576");
  CHECK(refused("hidden_size", -3) == "c.json: hidden_size is -3, expected an integer from 1 to 1048576");
  CHECK(refused("hidden_size", 64.5) == "c.json: hidden_size is 64.5, expected an integer from 1 to 1048576");
  CHECK(refused_without("hidden_size") ==
        "c.json: hidden_size is missing, expected an integer from 1 to 1048576");
  CHECK(refused_without("q_lora_rank") ==
        "c.json: q_lora_rank is missing, expected a positive integer or null");
  CHECK(refused_without("model_type") == "c.json: model_type is missing, expected a string");
  CHECK(refused("rope_theta", -1) == "c.json: rope_theta is -1, expected a positive number");
  CHECK(refused_without("moe_intermediate_size") ==
        "c.json: moe_intermediate_size is missing, expected a positive integer");
  CHECK(refused_without("num_experts_per_tok") ==
        "c.json: num_experts_per_tok is missing, expected a positive integer");
  CHECK(refused("model_type", "llama") ==
        "c.json: model_type is \"llama\", expected deepseek_v3 or deepseek_v2");
  CHECK(refused("hidden_act", "gelu") == "c.json: hidden_act is \"gelu\", expected \"silu\"");
  CHECK(refused("attention_bias", true) == "c.json: attention_bias is true, expected false");
  CHECK(refused("tie_word_embeddings", true) == "c.json: tie_word_embeddings is true, expected false");
  CHECK(refused("num_key_value_heads", 2) ==
        "c.json: num_key_value_heads is 2, expected num_attention_heads, 4: every head has its own keys");
  CHECK(refused("moe_layer_freq", 2) ==
        "c.json: moe_layer_freq is 2, expected 1: every layer after the dense ones has experts");
  CHECK(refused("scoring_func", "tanh") == "c.json: scoring_func is \"tanh\", expected sigmoid or softmax");
  CHECK(refused("topk_method", "greedy") ==
        "c.json: topk_method is \"greedy\", expected noaux_tc where scores are sigmoids");
  CHECK(refused("rms_norm_eps", 0) == "c.json: rms_norm_eps is 0, expected a positive number");
  CHECK(refused("eos_token_id", 160) == "c.json: eos_token_id is 160, expected an integer from 0 to 159");
  CHECK(refused("first_k_dense_replace", 4) ==
        "c.json: first_k_dense_replace is 4, expected an integer from 0 to 3");
  CHECK(refused("mtp_input", "before") ==
        "c.json: mtp_input is \"before\", expected post_final_norm or pre_final_norm");
  CHECK(refused("rope_scaling", 5) == "c.json: rope_scaling: found 5, expected an object");
  CHECK(refused("quantization_config", "fp8") ==
        "c.json: quantization_config: found \"fp8\", expected an object");
  CHECK(refused(json::array()) == "c.json: found [], expected an object");
}

TEST_CASE("contradictions inside the rope fields") {
  json object = published();
  object["rope_parameters"] = object["rope_scaling"];
  CHECK(refused(object) ==
        "c.json: both rope_scaling and rope_parameters found, expected one of the two spellings");
  object = published();
  object["rope_scaling"]["rope_theta"] = 10000;
  CHECK(refused(object) ==
        "c.json: rope_scaling: rope_theta is 10000, expected the 50000.0 that stands outside");
  object = published();
  object["rope_scaling"]["rope_type"] = "linear";
  CHECK(refused(object) == "c.json: rope_scaling: type is \"yarn\", expected the rope_type, linear");
  object["rope_scaling"]["type"] = "linear";
  CHECK(refused(object) == "c.json: rope_scaling: rope_type is \"linear\", expected yarn or default");
  object = published();
  object["rope_scaling"].erase("mscale");
  CHECK(refused(object) == "c.json: one of mscale and mscale_all_dim is missing, expected both or neither");
  object = published();
  object["rope_scaling"].erase("factor");
  CHECK(refused(object) == "c.json: rope_scaling: factor is missing, expected a number");
  object["rope_scaling"]["factor"] = 0;
  CHECK(refused(object) == "c.json: rope_scaling: factor is 0, expected a positive number");
}

TEST_CASE("impossible sizes") {
  CHECK(refused("qk_rope_head_dim", 7) ==
        "c.json: model config: qk_rope_head_dim must be positive and even: rotary channels come in pairs, "
        "found qk_rope_head_dim 7");
  CHECK(refused("n_group", 5) ==
        "c.json: router: the groups must divide the experts, found experts 16, groups 5");
  CHECK(refused("num_experts_per_tok", 9) ==
        "c.json: router: top_k must be between 1 and the experts of the kept groups, found top_k 9, experts "
        "16, "
        "groups 4, kept groups 2");
  json object = published();
  for (const char* key : {"hidden_size", "intermediate_size", "moe_intermediate_size", "n_routed_experts"})
    object[key] = 1 << 20;
  object["topk_group"] = 4;
  CHECK(refused(object).find("parameters, expected at most 1e15") != std::string::npos);
}

TEST_CASE("named sizes") {
  CHECK(named_config("v3").hidden == 7168);
  CHECK(support::raised([] { named_config("v2_lite"); }) ==
        "model: no size is named \"v2_lite\", expected one of tiny, midi, mini, small, bench-3b, moonlight, "
        "v2-lite, v2, v3; "
        "the nearest is v2-lite");
  CHECK(support::raised([] { named_config("zebra"); }) ==
        "model: no size is named \"zebra\", expected one of tiny, midi, mini, small, bench-3b, moonlight, "
        "v2-lite, v2, v3");
}
