// SPDX-License-Identifier: MIT
// The whole network in 8-bit tiles: gradients near those of float, every keep policy with the same bits,
// weights made from masters, and what the recipe's choices change.
#include "support/layers.hpp"

#include <dsv3/cpu.hpp>
#include <dsv3/train/step.hpp>

#include <algorithm>
#include <map>

using namespace dsv3;
using L = compact_layout;

namespace {

// Widths that end inside a tile. All experts are chosen, so that no rounding changes a choice.
model_config small() {
  return {.vocab = 40,
          .hidden = 192,
          .layers = 2,
          .dense_layers = 1,
          .mtp_depth = 1,
          .dense_inner = 200,
          .heads = 2,
          .q_rank = 160,
          .kv_rank = 136,
          .qk_nope = 32,
          .qk_rope = 16,
          .v_dim = 72,
          .expert_inner = 144,
          .experts = 3,
          .shared_experts = 1,
          .top_k = 3,
          .routed_scale = 2.5,
          .rope = {.factor = 4, .original_length = 64},
          .max_positions = 256,
          .init_deviation = 0.05};
}

template <precision P>
struct run {
  host_memory memory;
  deepseek_v3<P, L> model;
  training_state<P, L> state;
  cpu_context<> ctx{.threads = 2};

  explicit run(const model_config& config, keep kept = keep::everything,
               step_shape shape = {.rows = 3, .length = 70})
      : model{config}, state(memory, model, with(shape, kept)) {
    ctx.scratch = scratch_arena{memory, scratch_bytes(ctx, model, state)};
    initialize_state(ctx, state, 5);
    const random_stream random(7, 7);
    const auto ids = state.tokens.ids.flat();
    for (index_t i = 0; i < ids.size(); ++i)
      ids(i) = static_cast<std::int32_t>(random.below(40, static_cast<std::uint64_t>(i)));
  }
  static step_shape with(step_shape shape, keep kept) {
    shape.kept = kept;
    return shape;
  }
  step_report step(double learning_rate = 0) {
    const token_batch batch = state.micro_batch(0, state.shape.rows);
    step_options options;
    options.learning_rate = learning_rate;
    options.balance.coefficient = 1e-3;
    return train_step(ctx, model, state, std::span(&batch, 1), options);
  }
};

template <class A, class B>
double relative_distance(const view<A, 1>& a, const view<B, 1>& b) {
  double difference = 0, whole = 0;
  for (index_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(a(i)), y = static_cast<double>(b(i));
    difference += (x - y) * (x - y), whole += y * y;
  }
  return std::sqrt(difference / whole);
}

std::map<std::string, double> gradient_distances(const model_config& c) {
  run<fp32> exact{c};
  run<fp8_tilewise> narrow{c};
  const step_report a = exact.step(), b = narrow.step();
  CHECK(b.loss == doctest::Approx(a.loss).epsilon(0.01));
  std::map<std::string, double> distances;
  for (std::size_t i = 0; i < exact.state.parameters.size(); ++i)
    distances[exact.state.parameters[i].name] =
        relative_distance(narrow.state.parameters[i].g, exact.state.parameters[i].g);
  return distances;
}

}  // namespace

TEST_CASE("gradients are those of float, but for the rounding of three-bit mantissas") {
  for (const auto& [name, distance] : gradient_distances(small())) {
    CAPTURE(name);
    // A product's two roundings leave about 4 % of noise, and twenty products lie on the longest way.
    CHECK(distance < 0.3);
    CHECK(distance > 0.01);
  }
}

TEST_CASE("every keep policy gives the same bits") {
  run<fp8_tilewise> expected{small()};
  expected.step();
  for (const keep kept : {keep::attention, keep::inputs}) {
    run<fp8_tilewise> other{small(), kept};
    other.step();
    for (std::size_t i = 0; i < other.state.parameters.size(); ++i) {
      CAPTURE(other.state.parameters[i].name);
      const auto a = other.state.parameters[i].g, b = expected.state.parameters[i].g;
      CHECK(std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("weights in tiles follow their masters, within half a step of their scale") {
  run<fp8_tilewise> r{small()};
  REQUIRE(r.step(1e-3).updated);
  int in_tiles = 0;
  for (const parameter<fp8_tilewise>& row : r.state.parameters) {
    CAPTURE(row.name);
    const bool linear =
        row.name.find("_proj") != std::string::npos && row.name.find("eh_proj") == std::string::npos;
    CHECK(row.tiles.empty() == !linear);
    if (!linear) continue;
    ++in_tiles;
    const index_t rows = row.tiles.extent(1), columns = row.tiles.extent(2);
    index_t wrong = 0;
    for (index_t e = 0; e < row.tiles.extent(0); ++e)
      for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < columns; ++j) {
          const double scale = row.tiles[e].scale_of(i, j), p = row.p((e * rows + i) * columns + j);
          const double value = static_cast<double>(row.tiles[e].values(i, j)) * scale;
          wrong += std::fabs(value - p) > std::max(std::fabs(p) / 16, scale / 1024) * 1.0001;
        }
    CHECK(wrong == 0);
  }
  CHECK(in_tiles == 3 * 5 + 2 + 2 * 4);
}

TEST_CASE("each choice of the recipe changes the gradients, and none breaks them") {
  const auto usual = gradient_distances(small());
  const auto tried = [&](auto&& change) {
    model_config c = small();
    change(c.recipe);
    const auto distances = gradient_distances(c);
    CHECK(distances != usual);
    double worst = 0;
    for (const auto& [name, distance] : distances) worst = std::max(worst, distance);
    return worst;
  };
  CHECK(tried([](fp8_recipe& r) { r.product.accumulator = accumulator_model::hopper_fp22; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.product = {accumulator_model::hopper_fp22, 0}; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.scales = scale_kind::power_of_two; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.exchanged_scales = scale_kind::real; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.inputs = scale_group::block; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.inputs = scale_group::tensor; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.gradients = scale_group::block; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.gradients = scale_group::tensor; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.weights = scale_group::tensor; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.gradient = gradient_format::e5m2; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.attention_output = stored_format::e4m3; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.attention_output = stored_format::bf16; }) < 0.35);
  CHECK(tried([](fp8_recipe& r) { r.swiglu_input = stored_format::bf16; }) < 0.35);
}

namespace {

// Bytes per token that wait for the backward pass of one MoE block of V3, its input included.
template <precision P>
index_t kept_bytes(keep kept) {
  const index_t tokens = 4096;
  const model_config c = model_config::deepseek_v3();
  const block<P, L> layer{c.block(c.dense_layers)};
  const std::size_t saved = bytes_of<block_saved<P>>(layer.activation_config(tokens, 1, kept));
  return ceil_div(static_cast<index_t>(saved), tokens) + 2 * c.hidden;
}

}  // namespace

TEST_CASE("what waits for backward, per token and layer of V3") {
  CHECK(kept_bytes<bf16_mixed>(keep::everything) == 440113);
  CHECK(kept_bytes<bf16_mixed>(keep::attention) == 141105);
  CHECK(kept_bytes<fp8_tilewise>(keep::everything) == 304305);
  CHECK(kept_bytes<fp8_tilewise>(keep::attention) == 97713);
}
