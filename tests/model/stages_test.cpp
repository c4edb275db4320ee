// SPDX-License-Identifier: MIT
// The network cut into stages: losses and gradients are those of the whole, to the bit, whichever way
// backward is divided.
#include "small_model.hpp"

#include <dsv3/cpu.hpp>
#include <dsv3/exec/counting_memory.hpp>
#include <dsv3/model/initialize.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

using namespace dsv3;
using P = fp64_reference;

namespace {

constexpr index_t rows = 2, length = 6, micro_batches = 3;
constexpr double mtp_weight = 0.3;

model_config deep_model(index_t mtp_depth) {
  model_config c = support::small_model();
  c.layers = 5, c.dense_layers = 2, c.mtp_depth = mtp_depth, c.init_deviation = 0.2;
  return c;
}

enum class how { at_once, in_halves, weights_last };

// All of a model, cut where `cuts` says: its last entries are the blocks' ends.
struct cut_model {
  model_config config;
  std::vector<model_stage> stages;
  host_memory memory;
  deepseek_v3<P, compact_layout> model;
  owned<model_weights<P>> weights;
  owned<model_gradients<P>> gradients;
  owned<routing_state<P>> routing;
  owned<rope_table<double>> rope;
  std::vector<std::int32_t> ids, offsets, positions;
  std::vector<double> losses;  // [micro_batches, depths + 1]
  cpu_context<> ctx{.threads = 2};

  cut_model(const model_config& c, std::vector<model_stage> cuts)
      : config(c),
        stages(std::move(cuts)),
        model{with_stages()},
        weights(memory, config),
        gradients(memory, config),
        routing(memory, config),
        rope(memory, rope_table<double>::config_type{length, config.qk_rope}),
        losses(static_cast<std::size_t>(micro_batches * (2 + config.mtp_depth))) {
    ctx.scratch = scratch_arena{memory, std::size_t{1} << 22};
    model_masters<P>& masters = weights;
    initialize(ctx, masters, 3);
    zero(ctx, static_cast<model_gradients<P>&>(gradients));
    support::fill_with_numbers(static_cast<routing_state<P>&>(routing), 4);
    op::fill<std::int64_t>::constant(ctx, {.y = routing.load.flat(), .value = 0});
    op::decoupled_rope<P, compact_layout::rope>::table(
        ctx, {.rope = config.attention().rope, .table = static_cast<rope_table<double>&>(rope)});
    for (index_t i = 0; i < micro_batches * rows * width(); ++i)
      ids.push_back(static_cast<std::int32_t>(random_stream{1, 2}.below(
          static_cast<std::uint64_t>(config.vocab), static_cast<std::uint64_t>(i))));
    for (index_t r = 0; r <= rows; ++r) offsets.push_back(static_cast<std::int32_t>(r * length));
    for (index_t t = 0; t < rows * length; ++t) positions.push_back(static_cast<std::int32_t>(t % length));
  }

  // The network is marked as cut where it is, so that all stages add to the embedding's gradient.
  model_config with_stages() const {
    model_config c = config;
    if (stages.size() > 1) c.held = stages;
    return c;
  }
  index_t width() const { return length + 1 + config.mtp_depth; }

  token_batch batch(index_t m) const {
    const view<const std::int32_t, 2> all{ids.data() + m * rows * width(), rows, width()};
    return {.inputs = all.columns(0, width() - 1),
            .labels = all.columns(1, width()),
            .sequence = {.offsets = view{offsets.data(), rows + 1},
                         .positions = view{positions.data(), rows * length},
                         .max_length = length},
            .target_counts = std::vector<index_t>(static_cast<std::size_t>(1 + config.mtp_depth),
                                                  rows * length * micro_batches)};
  }
  view<double, 1> losses_of(index_t m) {
    const index_t columns = 2 + config.mtp_depth;
    return view{losses.data() + m * columns, columns};
  }

  // Forward of all micro-batches through all stages, then backward: what lies between stages is copied as it
  // would be sent.
  void run(keep kept, how divided) {
    const balance_options balance{.coefficient = 0.01};
    std::vector<owned<model_saved<P>>> saved;
    std::vector<owned<model_deltas<P>>> deltas;
    const std::size_t count = stages.size();
    const auto slot = [&](index_t m, std::size_t s) { return static_cast<std::size_t>(m) * count + s; };
    for (index_t m = 0; m < micro_batches; ++m)
      for (const model_stage& stage : stages) {
        const auto c = model.activation_config(rows, length, rows, kept, stage);
        saved.emplace_back(memory, c);
        deltas.emplace_back(memory, c);
      }
    for (index_t m = 0; m < micro_batches; ++m)
      for (std::size_t s = 0; s < count; ++s) {
        if (s > 0) copy_of(saved[slot(m, s - 1)].output(), saved[slot(m, s)].input());
        model.forward(ctx, {.batch = batch(m),
                            .weights = weights,
                            .bias = routing.bias,
                            .rope = rope,
                            .balance = balance,
                            .losses = losses_of(m),
                            .load = routing.load,
                            .saved = saved[slot(m, s)]});
      }
    std::vector<double> handed(static_cast<std::size_t>(rows * length * config.hidden));
    const view<double, 2> dx{handed.data(), rows * length, config.hidden};
    const auto weight_half = [&](index_t m, std::size_t s) {
      model.backward_weights(ctx, {.batch = batch(m),
                                   .weights = weights,
                                   .bias = routing.bias,
                                   .rope = rope,
                                   .balance = balance,
                                   .saved = saved[slot(m, s)],
                                   .deltas = deltas[slot(m, s)],
                                   .gradients = gradients,
                                   .into = m == 0 ? store::write : store::add});
    };
    for (index_t m = 0; m < micro_batches; ++m)
      for (std::size_t s = count; s-- > 0;) {
        if (divided == how::at_once) {
          std::vector<double> received = handed;
          model.backward(ctx, {.batch = batch(m),
                               .weights = weights,
                               .bias = routing.bias,
                               .rope = rope,
                               .balance = balance,
                               .mtp_weight = mtp_weight,
                               .saved = saved[slot(m, s)],
                               .gradients = gradients,
                               .into = m == 0 ? store::write : store::add,
                               .dx = s > 0 ? dx : view<double, 2>{},
                               .dy = view<const double, 2>{received.data(), rows * length, config.hidden}});
          continue;
        }
        if (s + 1 < count) copy_of(dx, deltas[slot(m, s)].output());
        model.backward_data(ctx, {.batch = batch(m),
                                  .weights = weights,
                                  .bias = routing.bias,
                                  .rope = rope,
                                  .balance = balance,
                                  .mtp_weight = mtp_weight,
                                  .saved = saved[slot(m, s)],
                                  .gradients = gradients,
                                  .into = m == 0 ? store::write : store::add,
                                  .dx = s > 0 ? dx : view<double, 2>{},
                                  .deltas = deltas[slot(m, s)]});
        if (divided == how::in_halves) weight_half(m, s);
      }
    if (divided == how::weights_last)
      for (index_t m = 0; m < micro_batches; ++m)
        for (std::size_t s = count; s-- > 0;) weight_half(m, s);
  }

  static void copy_of(view<const double, 2> from, view<double, 2> to) {
    REQUIRE(from.size() == to.size());
    std::copy_n(from.data(), from.size(), to.data());
  }
};

// Whether gradients are the same: all bits, but for the embedding's, whose terms come in another order.
void compare(cut_model& cut, cut_model& whole) {
  CHECK(cut.losses == whole.losses);
  for_each_field(
      [&](const std::string& name, const shape& s, auto& a, auto& b) {
        CAPTURE(name);
        double scale = 0, worst = 0;
        for (index_t i = 0; i < s.elements(); ++i) {
          scale = std::max(scale, std::fabs(b.data()[i]));
          worst = std::max(worst, std::fabs(a.data()[i] - b.data()[i]));
        }
        CHECK(scale > 0);
        CHECK(worst <= (name == "model.embed_tokens.weight" ? 1e-12 * scale : 0));
      },
      static_cast<model_gradients<P>&>(cut.gradients), static_cast<model_gradients<P>&>(whole.gradients));
  for (index_t i = 0; i < whole.routing.load.size(); ++i)
    CHECK(cut.routing.load.flat()(i) == whole.routing.load.flat()(i));
}

const std::vector<std::vector<model_stage>> all_cuts{
    {{0, 5}}, {{0, 3}, {3, 5}}, {{0, 1}, {1, 2}, {2, 4}, {4, 5}}, {{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 5}}};

}  // namespace

TEST_CASE("stages have the losses and gradients of the whole network") {
  for (const index_t depth : {0, 1, 2}) {
    const model_config config = deep_model(depth);
    cut_model whole{config, {config.whole()}};
    whole.run(keep::everything, how::at_once);
    for (const auto& cuts : all_cuts)
      for (const how divided : {how::at_once, how::in_halves, how::weights_last}) {
        CAPTURE(depth);
        CAPTURE(cuts.size());
        CAPTURE(static_cast<int>(divided));
        cut_model cut{config, cuts};
        cut.run(depth == 1 ? keep::attention : keep::inputs, divided);
        compare(cut, whole);
      }
  }
}

TEST_CASE("MTP modules may read the state before the final norm") {
  model_config config = deep_model(1);
  config.mtp_reads = mtp_input::pre_final_norm;
  cut_model whole{config, {config.whole()}}, cut{config, {{0, 2}, {2, 5}}};
  whole.run(keep::everything, how::at_once);
  cut.run(keep::everything, how::weights_last);
  compare(cut, whole);
}

TEST_CASE("a rank's tables of contents have what lies there, under the network's names") {
  model_config config = deep_model(1);
  const auto names = [&](std::vector<model_stage> held) {
    config.held = std::move(held);
    model_tensors<float> tensors;
    tensors.config = config;
    std::vector<std::string> found;
    for_each_field([&](const std::string& name, const shape&, auto&) { found.push_back(name); }, tensors);
    return found;
  };
  const auto with = [](const std::vector<std::string>& all, const std::string& part) {
    return std::count_if(all.begin(), all.end(), [&](const auto& n) { return n.find(part) != n.npos; });
  };
  const auto whole = names({}), first = names({{0, 2}}), middle = names({{2, 4}}), last = names({{4, 5}}),
             both = names({{0, 2}, {4, 5}});
  CHECK(first.front() == "model.embed_tokens.weight");
  CHECK(with(first, "model.layers.1.") > 0);
  CHECK(with(first, "model.layers.2.") == 0);
  CHECK(with(first, "lm_head") + with(first, "model.norm") == 0);
  CHECK(middle.front() == "model.layers.2.input_layernorm.weight");
  CHECK(with(middle, "embed") + with(middle, "lm_head") + with(middle, "model.layers.5.") == 0);
  CHECK(with(last, "embed") == 1);  // for the MTP module
  CHECK(with(last, "lm_head") == 1);
  CHECK(with(last, "model.layers.5.") > 0);
  CHECK(first.size() + middle.size() + last.size() == whole.size() + 1);
  CHECK(both.size() == first.size() + last.size() - 1);
  config.mtp_depth = 0;
  CHECK(with(names({{4, 5}}), "embed") == 0);
  config.held = {{3, 3}};
  CHECK(config.check().message() ==
        "model config: a stage must have at least one block, and none that the network lacks, found first 3, "
        "last 3, "
        "num_hidden_layers 5");
}
