// SPDX-License-Identifier: MIT
// Every published count: parameters, cache bytes and FLOPs of the reference configs, to the last digit.
#include <dsv3/model/accounting.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <string>

using namespace dsv3;

namespace {

constexpr auto causal = model_account::counting::causal, non_causal = model_account::counting::non_causal;

// Elements of every tensor of a block, by name.
std::map<std::string, index_t> tensors_of(const block_config& c) {
  std::map<std::string, index_t> elements;
  block_tensors<float> blank;
  blank.config = c;
  for_each_field([&](const std::string& name, const shape& s, auto&) { elements[name] = s.elements(); },
                 blank);
  return elements;
}

// 73.249 GF as a table rounds it.
double giga(double flops, int digits) {
  const double unit = std::pow(10.0, digits);
  return std::round(flops / 1e9 * unit) / unit;
}

}  // namespace

TEST_CASE("tensors of one layer of V3") {
  const model_config c = model_config::deepseek_v3();
  auto t = tensors_of(c.block(c.layers - 1));
  CHECK(t["self_attn.q_a_proj.weight"] == 11'010'048);
  CHECK(t["self_attn.q_a_layernorm.weight"] == 1'536);
  CHECK(t["self_attn.q_b_proj.weight"] == 37'748'736);
  CHECK(t["self_attn.kv_a_proj_with_mqa.weight"] == 4'128'768);
  CHECK(t["self_attn.kv_a_layernorm.weight"] == 512);
  CHECK(t["self_attn.kv_b_proj.weight"] == 16'777'216);
  CHECK(t["self_attn.o_proj.weight"] == 117'440'512);
  CHECK(elements_of<mla_tensors<float>>(c.attention()) == 187'107'328);
  CHECK(t["input_layernorm.weight"] + t["post_attention_layernorm.weight"] == 14'336);
  CHECK(t["mlp.experts.gate_up_proj.weight"] + t["mlp.experts.down_proj.weight"] == 11'274'289'152);
  CHECK((t["mlp.experts.gate_up_proj.weight"] + t["mlp.experts.down_proj.weight"]) / c.experts == 44'040'192);
  CHECK(t["mlp.shared_experts.gate_up_proj.weight"] + t["mlp.shared_experts.down_proj.weight"] == 44'040'192);
  CHECK(t["mlp.gate.weight"] == 1'835'008);
  t = tensors_of(c.block(0));
  CHECK(t["mlp.gate_up_proj.weight"] + t["mlp.down_proj.weight"] == 396'361'728);
}

TEST_CASE("the whole of V3") {
  const model_account v3{model_config::deepseek_v3()};
  const parameter_counts& n = v3.main();
  CHECK(n.embedding == 926'679'040);
  CHECK(n.head == 926'679'040);
  CHECK(n.attention == 11'413'547'008);
  CHECK(n.norms == 881'664);
  CHECK(n.dense == 1'189'085'184);
  CHECK(n.routed_experts == 653'908'770'816);
  CHECK(n.shared_experts == 2'554'331'136);
  CHECK(n.router == 106'430'464);
  CHECK(n.router_bias == 14'848);
  CHECK(n.moe() / v3.config().moe_layers() == 11'320'164'608);
  CHECK(n.total() == 671'026'419'200);
  CHECK(v3.activated_without_embedding() == 36'625'618'432);
  CHECK(v3.activated() == 37'552'297'472);
}

TEST_CASE("the MTP module of V3") {
  const model_account v3{model_config::deepseek_v3()};
  const parameter_counts& n = v3.mtp();
  CHECK(n.attention == 187'107'328);
  CHECK(n.norms == 14'336 + 21'504);
  CHECK(n.moe() == 11'320'164'608);
  CHECK(n.projection == 102'760'448);
  CHECK(n.total() == 11'610'068'224);
  CHECK(n.total() + v3.mtp_copies() == 13'463'426'304);
  CHECK(v3.main().total() + n.total() + v3.mtp_copies() == 684'489'845'504);
  CHECK(std::round(static_cast<double>(v3.mtp_activated_alone()) / 1e6) == 688);
  CHECK(std::round(static_cast<double>(v3.mtp_activated()) / 1e6) == 2541);
  CHECK(std::round(static_cast<double>(v3.mtp_activated() - n.projection) / 1e6) == 2439);
}

TEST_CASE("the other configs") {
  struct row {
    model_config config;
    index_t total, activated, without_embedding, mtp_unique;
  };
  const row rows[] = {
      {model_config::deepseek_v2_lite(), 15'706'484'224, 2'661'150'208, 2'451'435'008, 0},
      {model_config::moonlight_16b(), 15'960'110'208, 2'914'776'192, 2'579'231'872, 0},
      {model_config::deepseek_v2(), 235'741'434'880, 21'375'800'320, 20'851'512'320, 0},
      {model_config::tiny(), 6'134'704, 2'595'760, 2'464'688, 1'920'432},
      {model_config::mini(), 168'898'432, 36'777'856, 34'680'704, 26'921'920},
  };
  for (const row& expected : rows) {
    const model_account found{expected.config};
    CHECK(found.main().total() == expected.total);
    CHECK(found.activated() == expected.activated);
    CHECK(found.activated_without_embedding() == expected.without_embedding);
    CHECK(found.mtp().total() == expected.mtp_unique);
  }
}

TEST_CASE("cache bytes per token") {
  const model_account v3{model_config::deepseek_v3()};
  CHECK(v3.cache_bytes_per_layer() == 1'152);
  CHECK(v3.cache_bytes() == 70'272);
  CHECK(v3.cache_bytes_with_mtp() == 71'424);
  CHECK(v3.fp8_cache_bytes_per_layer() == 656);
  CHECK(v3.fp8_cache_bytes() == 40'016);
  CHECK(v3.plain_cache_bytes_per_layer() == 81'920);
  CHECK(v3.plain_cache_bytes() == 4'997'120);
  CHECK(std::round(10.0 * static_cast<double>(v3.plain_cache_bytes()) /
                   static_cast<double>(v3.cache_bytes())) == 711);
  CHECK(std::round(static_cast<double>(v3.cache_bytes() * 131'072) / 1e7) == 921);
  CHECK(model_account{model_config::deepseek_v2_lite()}.cache_bytes() == 31'104);
  CHECK(model_account{model_config::moonlight_16b()}.cache_bytes() == 31'104);
  CHECK(model_account{model_config::tiny()}.cache_bytes_per_layer() == 160);
  CHECK(model_account{model_config::tiny()}.cache_bytes() == 640);
  CHECK(model_account{model_config::mini()}.cache_bytes_per_layer() == 320);
  CHECK(model_account{model_config::mini()}.cache_bytes() == 2'560);
}

TEST_CASE("FLOPs per token of V3") {
  const model_account v3{model_config::deepseek_v3()};
  CHECK(v3.matrix_parameters() == 36'624'596'992);
  CHECK(giga(2.0 * static_cast<double>(v3.matrix_parameters()), 3) == 73.249);
  CHECK(v3.attention_flops_per_layer(1) == 81'920);
  CHECK(giga(61 * v3.attention_flops_per_layer(model_account::keys(4096, causal)), 3) == 10.237);
  CHECK(giga(61 * v3.attention_flops_per_layer(model_account::keys(4096, non_causal)), 3) == 20.468);
  CHECK(giga(v3.forward_flops(4096, causal), 3) == 83.486);
  CHECK(giga(v3.forward_flops(4096, non_causal), 3) == 93.717);
  CHECK(giga(v3.training_flops(4096, causal), 2) == 250.46);
  CHECK(giga(v3.training_flops(4096, non_causal), 2) == 281.15);
  CHECK(v3.mtp_matrix_parameters() == 1'614'741'504);
  CHECK(giga(v3.mtp_training_flops(4096, causal), 2) == 10.19);
  CHECK(giga(v3.mtp_training_flops(4096, non_causal), 2) == 10.70);
  CHECK(giga(v3.training_flops(4096, causal) + v3.mtp_training_flops(4096, causal), 2) == 260.65);
  CHECK(giga(v3.training_flops(4096, non_causal) + v3.mtp_training_flops(4096, non_causal), 2) == 291.85);
}

TEST_CASE("FLOPs of decoding with V3") {
  const model_account v3{model_config::deepseek_v3()};
  CHECK(v3.decode_attention_flops_per_layer(1) == 278'528);
  CHECK(std::round(61 * v3.decode_attention_flops_per_layer(1) / 1e4) == 1699);
  CHECK(giga(61 * v3.decode_attention_flops_per_layer(4096), 1) == 69.6);
  CHECK(giga(v3.decode_flops(4096), 1) == 142.8);
  CHECK(giga(v3.decode_flops(1024), 1) == 90.6);
}

TEST_CASE("other published training costs") {
  // DeepSeek-V2 at 4096 tokens: 155 GFLOPs per token.
  const model_account v2{model_config::deepseek_v2()};
  CHECK(giga(v2.training_flops(4096, causal), 0) == 155);
}

TEST_CASE("a model without experts has no routers") {
  model_config c = model_config::tiny();
  c.experts = 0;
  c.dense_layers = c.layers;
  const model_account dense{c};
  CHECK(dense.main().moe() == 0);
  CHECK(dense.mtp().moe() == 0);
  CHECK(dense.activated() == dense.main().total());
}
