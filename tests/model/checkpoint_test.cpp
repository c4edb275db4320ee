// SPDX-License-Identifier: MIT
// Weights to files and back: names, shapes, element types, shards, rotary rows, and every refusal.
#include <dsv3/model/checkpoint.hpp>
#include <dsv3/number/precision.hpp>

#include <io/folder.hpp>
#include <model/model_in_memory.hpp>
#include <model/small_model.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace dsv3;
using support::edited;
using support::float_model;
using support::model_in_memory;
using support::rewrite;
using support::small_model;

namespace {

using narrow_model = model_in_memory<bf16, float>;

std::string refused(const std::string& folder) {
  float_model model{small_model()};
  return support::raised([&] { model.read(folder); });
}

}  // namespace

TEST_CASE("the files have the published names and shapes") {
  const support::temporary_folder folder;
  float_model model{small_model()};
  const auto written = model.numbers(1).write(folder.path());
  CHECK(folder.names() == std::vector<std::string>{"config.json", "model.safetensors"});
  CHECK(written.size() == 2);
  for (const written_file& file : written) {
    const std::string bytes = support::get(folder / file.name);
    CHECK(bytes.size() == file.bytes);
    CHECK(crc32c_of(bytes) == file.checksum);
  }
  const safetensors_file file{folder / "model.safetensors"};
  const auto has = [&](const std::string& name, const std::vector<index_t>& extents) {
    CAPTURE(name);
    REQUIRE(file.contains(name));
    CHECK(file.tensor(name).extents == extents);
    CHECK(file.tensor(name).type == dtype::f32);
  };
  has("model.embed_tokens.weight", {24, 16});
  has("lm_head.weight", {24, 16});
  has("model.norm.weight", {16});
  index_t expected = 3;
  for (const std::string layer : {"0", "1", "2", "3"}) {
    const std::string l = "model.layers." + layer + ".";
    has(l + "input_layernorm.weight", {16});
    has(l + "post_attention_layernorm.weight", {16});
    has(l + "self_attn.q_a_proj.weight", {12, 16});
    has(l + "self_attn.q_a_layernorm.weight", {12});
    has(l + "self_attn.q_b_proj.weight", {20, 12});
    has(l + "self_attn.kv_a_proj_with_mqa.weight", {12, 16});
    has(l + "self_attn.kv_a_layernorm.weight", {8});
    has(l + "self_attn.kv_b_proj.weight", {24, 8});
    has(l + "self_attn.o_proj.weight", {16, 12});
    expected += 9;
    if (layer == "0") {
      has(l + "mlp.gate_proj.weight", {20, 16});
      has(l + "mlp.up_proj.weight", {20, 16});
      has(l + "mlp.down_proj.weight", {16, 20});
      expected += 3;
      continue;
    }
    has(l + "mlp.gate.weight", {4, 16});
    has(l + "mlp.gate.e_score_correction_bias", {4});
    for (const std::string e : {"experts.0", "experts.1", "experts.2", "experts.3", "shared_experts"}) {
      has(l + "mlp." + e + ".gate_proj.weight", {10, 16});
      has(l + "mlp." + e + ".up_proj.weight", {10, 16});
      has(l + "mlp." + e + ".down_proj.weight", {16, 10});
    }
    expected += 17;
  }
  const std::string m = "model.layers.3.";
  has(m + "enorm.weight", {16});
  has(m + "hnorm.weight", {16});
  has(m + "eh_proj.weight", {16, 32});
  has(m + "shared_head.norm.weight", {16});
  has(m + "embed_tokens.weight", {24, 16});
  has(m + "shared_head.head.weight", {24, 16});
  CHECK(static_cast<index_t>(file.tensors().size()) == expected + 6);

  // The parts of what memory fuses.
  const auto at = [&](const std::string& name, index_t r, index_t c) {
    return tensor_values<float, 2>{file.tensor(name)}.values()(r, c);
  };
  const auto& experts = model.weights.blocks[2].experts;
  CHECK(at("model.layers.2.mlp.experts.3.gate_proj.weight", 9, 5) == experts.w_gate_up(3, 9, 5));
  CHECK(at("model.layers.2.mlp.experts.3.up_proj.weight", 0, 5) == experts.w_gate_up(3, 10, 5));
  CHECK(at("model.layers.2.mlp.experts.1.down_proj.weight", 15, 2) == experts.w_down(1, 15, 2));
  CHECK(at("model.layers.2.mlp.shared_experts.up_proj.weight", 3, 4) == experts.shared.w_gate_up(13, 4));
  CHECK(at("model.layers.0.mlp.up_proj.weight", 2, 1) == model.weights.blocks[0].dense.w_gate_up(22, 1));
  CHECK(at("model.layers.3.shared_head.head.weight", 23, 15) == model.weights.head(23, 15));
  const tensor_values<float, 1> bias{file.tensor("model.layers.3.mlp.gate.e_score_correction_bias")};
  CHECK(bias.values()(2) == model.routing.bias(2, 2));
}

TEST_CASE("what is written comes back, in every type and in shards") {
  const support::temporary_folder folder;
  float_model model{small_model()};
  model.numbers(2);
  const auto comes_back = [&](const std::string& path) {
    float_model back{checkpoint_reader{path}.config()};
    const checkpoint_report report = back.read(path);
    CHECK(back.same(model));
    CHECK(report.tensors == 3 + 9 + 3 + 3 * (9 + 17) + 4);
    CHECK(report.copies == std::vector<std::string>{"model.layers.3.embed_tokens.weight",
                                                    "model.layers.3.shared_head.head.weight"});
    CHECK(report.left_out.empty());
  };
  model.write(folder / "own");
  comes_back(folder / "own");
  model.write(folder / "narrow", {.type = dtype::bf16});
  comes_back(folder / "narrow");
  CHECK(read_json(folder / "narrow/config.json")["torch_dtype"] == "bfloat16");
  model.write(folder / "wide", {.type = dtype::f64});
  comes_back(folder / "wide");

  const auto written = model.write(folder / "shards", {.max_shard_bytes = 5000});
  CHECK(written.size() > 5);
  CHECK(support::get(folder / "shards/model.safetensors.index.json").find("lm_head.weight") !=
        std::string::npos);
  comes_back(folder / "shards");
}

TEST_CASE("a bundle of two types keeps both") {
  const support::temporary_folder folder;
  narrow_model model{small_model()}, back{small_model()};
  model.numbers(3).write(folder.path());
  const safetensors_file file{folder / "model.safetensors"};
  CHECK(file.tensor("lm_head.weight").type == dtype::bf16);
  CHECK(file.tensor("model.norm.weight").type == dtype::f32);
  CHECK(file.tensor("model.layers.1.mlp.gate.e_score_correction_bias").type == dtype::f32);
  back.read(folder.path());
  CHECK(back.same(model));
}

TEST_CASE("uncompressed queries") {
  const support::temporary_folder folder;
  model_config config = small_model();
  config.q_rank = 0;
  config.shared_experts = 0;
  float_model model{config}, back{config};
  model.numbers(4).write(folder.path());
  const safetensors_file file{folder / "model.safetensors"};
  CHECK(file.tensor("model.layers.0.self_attn.q_proj.weight").extents == std::vector<index_t>{20, 16});
  CHECK_FALSE(file.contains("model.layers.0.self_attn.q_b_proj.weight"));
  CHECK_FALSE(file.contains("model.layers.1.mlp.shared_experts.down_proj.weight"));
  back.read(folder.path());
  CHECK(back.same(model));
}

TEST_CASE("rotary rows are interleaved or half-split, in the files and in memory") {
  const support::temporary_folder folder;
  float_model interleaved{small_model()}, half_split{small_model()}, back{small_model()};
  interleaved.numbers(5).write(folder.path());
  half_split.read(folder.path(), rope_layout::half_split);

  // Row i of the first half has been row 2 i, row i of the second half row 2 i + 1; all else stays.
  const auto& a = interleaved.weights.blocks[1].attention;
  const auto& b = half_split.weights.blocks[1].attention;
  const index_t key[] = {0, 2, 1, 3};
  for (index_t head = 0; head < 2; ++head)
    for (index_t i = 0; i < 10; ++i)
      for (index_t column = 0; column < 12; ++column) {
        const index_t from = head * 10 + (i < 6 ? i : 6 + key[i - 6]);
        CHECK(b.w_uq(head * 10 + i, column) == a.w_uq(from, column));
      }
  for (index_t i = 0; i < 12; ++i) CHECK(b.w_dkv(i, 3) == a.w_dkv(i < 8 ? i : 8 + key[i - 8], 3));
  CHECK(std::memcmp(a.w_ukv.data(), b.w_ukv.data(), sizeof(float) * 24 * 8) == 0);

  // Files always get the interleaved order.
  half_split.write(folder / "again", {.memory = rope_layout::half_split});
  CHECK(back.read(folder / "again").copies.size() == 2);
  CHECK(back.same(interleaved));

  // A file that says its rows are half-split.
  half_split.write(folder / "halves");
  json config = read_json(folder / "halves/config.json");
  config["rope_interleave"] = false;
  write_json(folder / "halves/config.json", config);
  back.read(folder / "halves");
  CHECK(back.same(interleaved));
  back.read(folder / "halves", rope_layout::half_split);
  CHECK(back.same(half_split));
}

TEST_CASE("ranks that share experts read their own under the numbers of the model") {
  const support::temporary_folder folder;
  float_model model{small_model()};
  model.numbers(8).write(folder.path());
  for (const index_t rank : {0, 1}) {
    model_config config = small_model();
    config.expert_ranks = 2, config.expert_rank = rank;
    float_model part{config};
    CHECK(part.read(folder.path()).left_out.size() == 3 * 2 * 3);  // of two layers and the MTP module
    const auto &all = model.weights.blocks[2].experts, &own = part.weights.blocks[2].experts;
    CHECK(own.w_down.extent(0) == 2);
    for (index_t e : {0, 1}) {
      CHECK(own.w_down(e, 3, 4) == all.w_down(2 * rank + e, 3, 4));
      CHECK(own.w_gate_up(e, 13, 7) == all.w_gate_up(2 * rank + e, 13, 7));
    }
    CHECK(own.centroids(3, 3) == all.centroids(3, 3));
  }
}

TEST_CASE("MTP modules may be left out, and what is left out is told") {
  const support::temporary_folder folder;
  float_model model{small_model()};
  model.numbers(6).write(folder.path());
  model_config config = small_model();
  config.mtp_depth = 0;
  float_model back{config};
  const checkpoint_report report = back.read(folder.path());
  CHECK(report.left_out.size() == 9 + 17 + 4);
  CHECK(report.copies.size() == 2);
  CHECK(back.weights.head(3, 3) == model.weights.head(3, 3));
  CHECK(back.routing.bias(1, 2) == model.routing.bias(1, 2));

  back.write(folder / "none");
  CHECK(refused(folder / "none") ==
        folder / "none/config.json" + ": num_nextn_predict_layers is 0, the model to fill has 1");
}

TEST_CASE("what does not fit is refused") {
  const support::temporary_folder folder;
  const std::string whole = folder / "whole", broken = folder / "broken",
                    file = folder / "broken/model.safetensors";
  float_model{small_model()}.numbers(7).write(whole);
  std::filesystem::create_directory(broken);
  std::filesystem::copy_file(whole + "/config.json", broken + "/config.json");
  const auto with = [&](const edited& edit) {
    rewrite(whole, broken, edit);
    return refused(broken);
  };
  const std::string gate = "model.layers.1.mlp.experts.2.gate_proj.weight";

  CHECK(with([&](std::string& name, dtype&, auto&) {
          if (name == gate) name.clear();
        }) == broken + ": tensor " + gate + " is missing");
  CHECK(with([&](std::string& name, dtype&, auto&) {
          if (name == "model.layers.3.embed_tokens.weight") name = "lm_haed.weight";
        }) == file +
                  ": tensor lm_haed.weight is unknown to the config beside it, the nearest that it has is "
                  "lm_head.weight");
  CHECK(with([&](std::string& name, dtype&, auto& extents) {
          if (name == gate) extents = {16, 10};
        }) == file + ": tensor " + gate + " has shape [16, 10], expected [10, 16]");
  CHECK(with([&](std::string& name, dtype& type, auto&) {
          if (name == gate) type = dtype::i32;
        }) == file + ": tensor " + gate + " has type I32, expected F64, F32 or BF16");
  CHECK(with([&](std::string& name, dtype&, auto&) {
          if (name == "model.layers.3.embed_tokens.weight")
            name = "model.layers.3.shared_head.head.weight";
          else if (name == "model.layers.3.shared_head.head.weight")
            name = "model.layers.3.embed_tokens.weight";
        }) ==
        file +
            ": tensor model.layers.3.embed_tokens.weight differs from model.embed_tokens.weight, expected "
            "a copy: the two are one tensor here");
  CHECK(with([](std::string&, dtype&, auto&) {}) == "");

  model_config other = small_model();
  other.epsilon = 1e-5;
  CHECK(support::raised([&] { float_model{other}.read(whole); }) ==
        whole + "/config.json: rms_norm_eps is 1e-06, the model to fill has 1e-05");

  CHECK(refused(folder / "nowhere") == folder / "nowhere" + ": cannot be opened: No such file or directory");
  CHECK(support::raised([&] { float_model{small_model()}.write("/dev/null/x"); }) ==
        "/dev/null/x: folder cannot be made: Not a directory");
}
