// SPDX-License-Identifier: MIT
// Weights in 8 bits to files and back: which they are, what they become, rotary rows, and every refusal.
#include <dsv3/model/checkpoint.hpp>

#include <io/folder.hpp>
#include <model/model_in_memory.hpp>
#include <model/small_model.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

using namespace dsv3;
using support::float_model;
using support::model_in_memory;
using support::rewrite;

namespace {

// Matrices of several blocks with ragged edges; the rotary rows of a head lie in two of them.
model_config ragged_model() {
  model_config c = support::small_model();
  c.hidden = 136, c.kv_rank = 132, c.dense_inner = 130, c.qk_nope = 100, c.qk_rope = 40;
  return c;
}

// Of every tensor that the files hold in 8 bits, how many blocks.
const std::vector<std::pair<std::string, std::vector<index_t>>> in_blocks{
    {"model.layers.0.self_attn.q_a_proj.weight", {1, 2}},
    {"model.layers.0.self_attn.q_b_proj.weight", {3, 1}},
    {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", {2, 2}},
    {"model.layers.0.self_attn.kv_b_proj.weight", {2, 2}},
    {"model.layers.0.self_attn.o_proj.weight", {2, 1}},
    {"model.layers.0.mlp.gate_proj.weight", {2, 2}},
    {"model.layers.0.mlp.up_proj.weight", {2, 2}},
    {"model.layers.0.mlp.down_proj.weight", {2, 2}},
    {"model.layers.1.mlp.experts.3.gate_proj.weight", {1, 2}},
    {"model.layers.3.mlp.experts.0.down_proj.weight", {2, 1}},
    {"model.layers.2.mlp.shared_experts.up_proj.weight", {1, 2}}};
const char* const whole[] = {"model.embed_tokens.weight",
                             "lm_head.weight",
                             "model.norm.weight",
                             "model.layers.1.mlp.gate.weight",
                             "model.layers.1.mlp.gate.e_score_correction_bias",
                             "model.layers.0.self_attn.kv_a_layernorm.weight",
                             "model.layers.3.eh_proj.weight",
                             "model.layers.3.enorm.weight",
                             "model.layers.3.shared_head.head.weight"};

// Every element of the bundle is what code and scale in the files say, or the element of `original`.
template <class Model>
void compare_with_files(const std::string& folder, const Model& found, const float_model& original) {
  const safetensors_file file{folder + "/model.safetensors"};
  std::map<std::string, std::vector<double>> numbers;
  for_each_checkpoint_tensor(original.weights, [&](const auto& tensor) {
    numbers[tensor.name].assign(tensor.elements().begin(), tensor.elements().end());
  });
  index_t narrow = 0, different = 0;
  for_each_checkpoint_tensor(found.weights, [&]<class T>(const checkpoint_tensor<T>& tensor) {
    if (!file.contains(tensor.name + "_scale_inv")) {
      for (std::size_t i = 0; i < tensor.elements().size(); ++i)
        different += static_cast<double>(tensor.elements()[i]) != numbers[tensor.name][i];
      return;
    }
    ++narrow;
    const tensor_values<std::uint8_t, 2> codes{file.tensor(tensor.name)};
    const tensor_values<float, 2> scales{file.tensor(tensor.name + "_scale_inv")};
    for (index_t r = 0; r < tensor.rows(); ++r)
      for (index_t c = 0; c < tensor.row_elements(); ++c) {
        const double code = static_cast<float>(fp8_e4m3::from_bits(codes.values()(r, c)));
        const double product = code * scales.values()(r / 128, c / 128);
        const double expected = static_cast<double>(static_cast<std::remove_const_t<T>>(product));
        different += static_cast<double>(tensor.row(r)[static_cast<std::size_t>(c)]) != expected;
      }
  });
  CHECK(different == 0);
  CHECK(narrow == 4 * 5 + 3 + 3 * 15);
}

std::string refused(const std::string& folder, const reading_options& options = {}) {
  float_model model{ragged_model()};
  return support::raised([&] { checkpoint_reader{folder, options}.read(model.weights, model.routing.bias); });
}

}  // namespace

TEST_CASE("the weights of linear layers, and no others, are codes with scales") {
  const support::temporary_folder folder;
  float_model model{ragged_model()};
  model.numbers(1).write(folder.path(), {.type = dtype::f8_e4m3});
  const safetensors_file file{folder / "model.safetensors"};
  for (const auto& [name, blocks] : in_blocks) {
    CAPTURE(name);
    CHECK(file.tensor(name).type == dtype::f8_e4m3);
    CHECK(file.tensor(name + "_scale_inv").type == dtype::f32);
    CHECK(file.tensor(name + "_scale_inv").extents == blocks);
  }
  for (const char* name : whole) {
    CAPTURE(name);
    CHECK(file.tensor(name).type == dtype::f32);
    CHECK_FALSE(file.contains(std::string(name) + "_scale_inv"));
  }
  const json config = read_json(folder / "config.json");
  CHECK(config["torch_dtype"] == "float32");
  CHECK(config["quantization_config"] == json::parse(R"({"activation_scheme": "dynamic", "fmt": "e4m3",
        "quant_method": "fp8", "weight_block_size": [128, 128]})"));
  CHECK(checkpoint_reader{folder.path()}.config().hidden == 136);

  float_model single{ragged_model()};
  single.read(folder.path());
  compare_with_files(folder.path(), single, model);
  model_in_memory<double> wide{ragged_model()};
  wide.read(folder.path());
  compare_with_files(folder.path(), wide, model);
  model_in_memory<bf16, float> narrow{ragged_model()};
  narrow.read(folder.path());
  compare_with_files(folder.path(), narrow, model);

  // What was read and is written again are the same bits, in shards too.
  single.write(folder / "again", {.type = dtype::f8_e4m3});
  CHECK(support::get(folder / "again/model.safetensors") == support::get(folder / "model.safetensors"));
  single.write(folder / "shards", {.type = dtype::f8_e4m3, .max_shard_bytes = 100'000});
  float_model back{ragged_model()};
  back.read(folder / "shards");
  CHECK(back.same(single));
}

TEST_CASE("scales belong to rows as they lie in the file") {
  const support::temporary_folder folder;
  float_model model{ragged_model()}, interleaved{ragged_model()}, half_split{ragged_model()};
  model.numbers(2).write(folder / "a", {.type = dtype::f8_e4m3});
  interleaved.read(folder / "a");
  half_split.read(folder / "a", rope_layout::half_split);
  const auto& a = interleaved.weights.blocks[1].attention;
  const auto& b = half_split.weights.blocks[1].attention;
  const auto key = [](index_t i) { return i < 20 ? 2 * i : 2 * (i - 20) + 1; };
  for (index_t column = 0; column < 12; ++column)
    for (index_t head = 0; head < 2; ++head)
      for (index_t i = 0; i < 140; ++i)
        REQUIRE(b.w_uq(head * 140 + i, column) ==
                a.w_uq(head * 140 + (i < 100 ? i : 100 + key(i - 100)), column));
  for (index_t i = 0; i < 172; ++i)
    REQUIRE(b.w_dkv(i, 130) == a.w_dkv(i < 132 ? i : 132 + key(i - 132), 130));

  half_split.write(folder / "b", {.type = dtype::f8_e4m3, .memory = rope_layout::half_split});
  CHECK(support::get(folder / "a/model.safetensors") == support::get(folder / "b/model.safetensors"));
}

TEST_CASE("modules that are left out take their scales with them") {
  const support::temporary_folder folder;
  float_model{ragged_model()}.numbers(3).write(folder.path(), {.type = dtype::f8_e4m3});
  model_config config = ragged_model();
  config.mtp_depth = 0;
  float_model back{config};
  CHECK(back.read(folder.path()).left_out.size() == 9 + 17 + 4 + 5 + 15);
}

// Every matrix in tiles is `wide` quantised as a whole; the other fields are its numbers.
template <class Tiled>
void compare_tiles(const Tiled& found, const float_model& wide) {
  index_t matrices = 0, different = 0;
  for_each_field(
      [&](const std::string& name, const shape&, const auto& tiles, const auto& numbers) {
        if constexpr (requires { tiles.scales; }) {
          std::vector<view<const float, 2>> sources;
          detail::each_matrix(name, numbers, wide.weights.config,
                              [&](const std::string&, const auto& m) { sources.push_back(m); });
          std::size_t next = 0;
          detail::each_matrix(name, tiles, wide.weights.config, [&](const std::string&, const auto& matrix) {
            const index_t rows = matrix.extent(0), columns = matrix.extent(1),
                          across = ceil_div(columns, 128);
            std::vector<fp8_e4m3> codes(static_cast<std::size_t>(rows * columns));
            std::vector<float> scales(static_cast<std::size_t>(ceil_div(rows, 128) * across));
            const scaled_view<fp8_e4m3, block_tile> expected{
                view<fp8_e4m3, 2>{codes.data(), rows, columns},
                {scales.data(), {ceil_div(rows, 128), across}, {across, index_t{1}}}};
            quantize_blocks<float>(sources[next++], expected, name);
            for (index_t r = 0; r < rows; ++r)
              for (index_t c = 0; c < columns; ++c) {
                different += matrix.values(r, c).bits != expected.values(r, c).bits ||
                             matrix.scale_of(r, c) != expected.scale_of(r, c);
              }
            ++matrices;
          });
        } else {
          for (index_t i = 0; i < tiles.size(); ++i)
            different += static_cast<float>(tiles.data()[i]) != numbers.data()[i];
        }
      },
      found.weights, wide.weights);
  CHECK(different == 0);
  CHECK(matrices == 4 * 5 + 2 + 3 * 10);
}

// dense_inner 130: gate and up share a block in memory, but not in the files; 256: their blocks are the same.
TEST_CASE("matrices in scaled tiles") {
  using tiled_model = model_in_memory<bf16, float, scaled<fp8_e4m3, block_tile>>;
  for (const index_t inner : {130, 256}) {
    CAPTURE(inner);
    const support::temporary_folder folder;
    model_config config = ragged_model();
    config.dense_inner = config.expert_inner = inner;
    float_model plain{config}, meant{config};
    plain.numbers(6).write(folder / "plain");
    plain.write(folder / "blocks", {.type = dtype::f8_e4m3});
    meant.read(folder / "blocks");
    tiled_model from_plain{config}, from_blocks{config};
    from_plain.read(folder / "plain");
    compare_tiles(from_plain, plain);
    CHECK(from_blocks.read(folder / "blocks").tensors == 3 + 9 + 3 + 3 * (9 + 17) + 4);
    compare_tiles(from_blocks, meant);
    from_blocks.read(folder / "blocks", rope_layout::half_split);
    meant.read(folder / "blocks", rope_layout::half_split);
    compare_tiles(from_blocks, meant);

    // Written without being asked how: the same codes where blocks are the same.
    from_blocks.read(folder / "blocks");
    from_blocks.write(folder / "again");
    const safetensors_file before{folder / "blocks/model.safetensors"},
        after{folder / "again/model.safetensors"};
    index_t narrow = 0;
    for (const tensor_entry& tensor : before.tensors()) {
      const bool pair = tensor.name.find("gate_proj") != tensor.name.npos ||
                        tensor.name.find("up_proj") != tensor.name.npos;
      if (!tensor.name.ends_with("_scale_inv") && tensor.type != dtype::f8_e4m3) continue;
      CAPTURE(tensor.name);
      ++narrow;
      if (!pair || inner == 256) CHECK(std::ranges::equal(after.tensor(tensor.name).bytes, tensor.bytes));
    }
    CHECK(narrow == 2 * (4 * 5 + 3 + 3 * 15));
    CHECK(after.tensors().size() == before.tensors().size());
    CHECK(after.tensor("lm_head.weight").type == dtype::bf16);
  }
}

// Scales of another maker are kept where blocks are the same: no block here has the scale that we would give.
TEST_CASE("foreign scales") {
  const support::temporary_folder folder;
  const model_config config = ragged_model();
  float_model{config}.numbers(7).write(folder.path(), {.type = dtype::f8_e4m3});
  std::string bytes = support::get(folder / "model.safetensors");
  const safetensors_table table =
      parse_safetensors(std::as_bytes(std::span(bytes)), folder / "model.safetensors");
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  const auto* at = reinterpret_cast<const char*>(table.find(name + "_scale_inv")->bytes.data());
  const float powers[] = {0.25f, 2.0f};
  std::memcpy(bytes.data() + (at - bytes.data()), powers, sizeof powers);
  support::put(folder / "model.safetensors", bytes);
  model_in_memory<bf16, float, scaled<fp8_e4m3, block_tile>> tiled{config};
  tiled.read(folder.path());
  const auto& w_o = tiled.weights.blocks[1].attention.w_o;
  CHECK(w_o.scale_of(127, 0) == 0.25f);
  CHECK(w_o.scale_of(128, 0) == 2.0f);
}

TEST_CASE("scales that are none are refused") {
  const support::temporary_folder folder;
  const std::string good = folder / "good", broken = folder / "broken",
                    file = folder / "broken/model.safetensors",
                    weight = "model.layers.0.mlp.gate_proj.weight", scale = weight + "_scale_inv";
  float_model{ragged_model()}.numbers(4).write(good, {.type = dtype::f8_e4m3});
  std::filesystem::create_directory(broken);
  std::filesystem::copy_file(good + "/config.json", broken + "/config.json");
  const auto with = [&](const support::edited& edit) {
    rewrite(good, broken, edit);
    return refused(broken);
  };
  CHECK(with([](std::string&, dtype&, auto&) {}) == "");

  CHECK(with([&](std::string& name, dtype&, auto&) {
          if (name == scale) name.clear();
        }) == file + ": tensor " + weight + " has type F8_E4M3 and no " + scale +
                  " was found, expected the scales of its blocks");
  CHECK(refused(broken, {.unscaled_codes = true}) == "");
  float_model unscaled{ragged_model()};
  checkpoint_reader{broken, {.unscaled_codes = true}}.read(unscaled.weights, unscaled.routing.bias);
  const safetensors_file codes{file};
  CHECK(unscaled.weights.blocks[0].dense.w_gate_up(129, 135) ==
        static_cast<float>(tensor_values<fp8_e4m3, 2>{codes.tensor(weight)}.values()(129, 135)));

  CHECK(with([&](std::string& name, dtype&, auto& extents) {
          if (name == scale) extents = {1, 4};
        }) == file + ": tensor " + scale +
                  " has shape [1, 4], expected [2, 2]: one scale per 128 x 128 block "
                  "of [130, 136]");
  CHECK(with([&](std::string& name, dtype& type, auto&) {
          if (name == scale) type = dtype::i32;
        }) == file + ": tensor " + scale + " has type I32, expected F32");
  CHECK(with([&](std::string& name, dtype& type, auto&) {
          if (name == weight) type = dtype::f8_e5m2;
        }) == file + ": tensor " + scale + " found beside " + weight +
                  " of type F8_E5M2, expected scales of F8_E4M3 alone");
  CHECK(with([&](std::string& name, dtype&, auto&) {
          if (name == scale) name = "model.layers.0.mlp.gate_up_proj.weight_scale_inv";
        }) == file + ": tensor " + weight + " has type F8_E4M3 and no " + scale +
                  " was found, expected the scales of its blocks");
  CHECK(refused(broken, {.unscaled_codes = true}) ==
        file +
            ": tensor model.layers.0.mlp.gate_up_proj.weight_scale_inv scales no tensor, expected "
            "model.layers.0.mlp.gate_up_proj.weight of F8_E4M3 beside it");

  // The last of the four scales, changed in place.
  for (const auto& [value, said] :
       {std::pair{0.0f, "0.000000"}, {-2.0f, "-2.000000"}, {INFINITY, "inf"}, {NAN, "nan"}}) {
    with([](std::string&, dtype&, auto&) {});
    std::string bytes = support::get(file);
    const safetensors_table table = parse_safetensors(std::as_bytes(std::span(bytes)), file);
    const auto* at = reinterpret_cast<const char*>(table.find(scale)->bytes.data()) + 3 * sizeof(float);
    std::memcpy(bytes.data() + (at - bytes.data()), &value, sizeof value);
    support::put(file, bytes);
    CHECK(refused(broken) ==
          file + ": tensor " + scale + "[1, 1] is " + said + ", expected a positive finite scale");
  }

  with([](std::string&, dtype&, auto&) {});
  json config = read_json(broken + "/config.json");
  config.erase("quantization_config");
  write_json(broken + "/config.json", config);
  CHECK(
      refused(broken).ends_with(" has type F8_E4M3, expected quantization_config in the config.json beside "
                                "it to say how it is scaled"));
}

TEST_CASE("a weight that no code stands for is not written") {
  const support::temporary_folder folder;
  float_model model{ragged_model()};
  model.numbers(5).weights.blocks[0].dense.w_gate_up(130 + 129, 135) = INFINITY;
  CHECK(support::raised([&] { model.write(folder / "x", {.type = dtype::f8_e4m3}); }) ==
        "checkpoint: tensor model.layers.0.mlp.up_proj.weight[129, 135] is inf, expected a finite number: no "
        "8-bit code stands for it");
  CHECK_FALSE(std::filesystem::exists(folder / "x/model.safetensors"));
}
