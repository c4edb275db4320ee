// SPDX-License-Identifier: MIT
// Everything a training run keeps in memory, from one source of memory.
#pragma once

#include <dsv3/model/deepseek_v3.hpp>
#include <dsv3/train/learned_tensors.hpp>
#include <dsv3/train/progress.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// What one step reads: `micro_batches` times rows * length tokens, whose gradients are summed.
struct step_shape {
  index_t micro_batches = 1;
  index_t rows = 1, length = 0;
  keep kept = keep::everything;

  index_t tokens() const { return micro_batches * rows * length; }
};

/// The tokens of a step, all rows of one length; every row is a sequence. Lives where the host can write.
struct batch_tokens {
  struct config_type {
    step_shape step;
    index_t mtp_depth = 0;

    index_t width() const { return step.length + 1 + mtp_depth; }
  };
  config_type config;
  view<std::int32_t, 3> ids;        // [micro_batches, rows, length + 1 + mtp_depth]     -1: no token
  view<std::int32_t, 1> offsets;    // [rows + 1]                  the same for every step, and so are
  view<std::int32_t, 1> positions;  // [rows * length]

  template <class Visit, class... Self>
  static void each_field(const config_type& c, Visit&& visit, Self&... self) {
    visit("ids", shape{c.step.micro_batches, c.step.rows, c.width()}, self.ids...);
    visit("offsets", shape{c.step.rows + 1}, self.offsets...);
    visit("positions", shape{c.step.rows * c.step.length}, self.positions...);
  }

  void set_sequences() const {
    for (index_t row = 0; row <= config.step.rows; ++row)
      offsets(row) = static_cast<std::int32_t>(row * config.step.length);
    for (index_t t = 0; t < positions.extent(0); ++t)
      positions(t) = static_cast<std::int32_t>(t % config.step.length);
  }
};

/// What the operations of a step read and pass on to each other besides gradients.
struct step_numbers {
  struct config_type {
    index_t micro_batches = 1, depths = 1, routers = 0, experts = 0;
  };
  config_type config;
  view<double, 2> losses;  // [micro_batches, depths + 1]   cross entropy by depth, balance
  view<double, 1> norm;    // [3]                           sum of squares, norm, clip factor
  view<double, 1> pace;    // [3]                           of adamw_config

  template <class Visit, class... Self>
  static void each_field(const config_type& c, Visit&& visit, Self&... self) {
    visit("losses", shape{c.micro_batches, c.depths + 1}, self.losses...);
    visit("norm", shape{3}, self.norm...);
    visit("pace", shape{3}, self.pace...);
  }
};

/// The few numbers that the host gives and reads.
struct reported_numbers {
  step_numbers::config_type config;
  view<double, 2> losses;               // [micro_batches, depths + 1]   of step_numbers, at the end of a step
  view<double, 1> norm;                 // [3]
  view<double, 1> pace;                 // [3]                           written by the host before a step
  view<std::int64_t, 1> target_counts;  // [depths + 1]                  by depth; last: sequences
  view<std::int64_t, 2> load;           // [routers, experts]            assignments of the last step

  template <class Visit, class... Self>
  static void each_field(const step_numbers::config_type& c, Visit&& visit, Self&... self) {
    visit("losses", shape{c.micro_batches, c.depths + 1}, self.losses...);
    visit("norm", shape{3}, self.norm...);
    visit("pace", shape{3}, self.pace...);
    visit("target_counts", shape{c.depths + 1}, self.target_counts...);
    visit("load", shape{c.routers, c.experts}, self.load...);
  }

  double sum_of_losses(index_t column) const {
    double sum = 0;
    for (index_t m = 0; m < losses.extent(0); ++m) sum += losses(m, column);
    return sum;
  }
};

/// Masters, weights, gradients, moments, routing state, saved activations and what surrounds them. Contents
/// start undefined: `initialize_state`, or a checkpoint, defines them. Built on counting_memory it is a plan.
template <precision P, layout_policy L = default_layout>
struct training_state : learned_tensors<P> {
  step_shape shape;
  training_progress progress;
  owned<routing_state<P>> routing;
  owned<model_saved<P>> saved;  // of the whole network; empty where stages keep what is theirs
  owned<rope_table<accumulator<P>>> rope;
  owned<batch_tokens> tokens;        // written by the host
  owned<batch_tokens> placed;        // the same where operations read it
  owned<step_numbers> numbers;       // of operations
  owned<reported_numbers> reported;  // the same where the host writes before a step and reads after it

  training_state(const memory_sources& memory, const deepseek_v3<P, L>& model, const step_shape& step,
                 const training_ranks& run = {})
      : learned_tensors<P>(memory.work, model.config, run),
        shape(step),
        routing(memory.work, model.config),
        saved(model.config.held.empty()
                  ? owned<model_saved<P>>(
                        memory.work, model.activation_config(step.rows, step.length, step.rows, step.kept))
                  : owned<model_saved<P>>()),
        rope(memory.work,
             typename rope_table<accumulator<P>>::config_type{step.length, model.config.qk_rope}),
        tokens(memory.shared, batch_tokens::config_type{step, model.config.mtp_depth}),
        placed(memory.work, tokens.config),
        numbers(memory.work, step_numbers::config_type{step.micro_batches, 1 + model.config.mtp_depth,
                                                       model.config.routers(), model.config.experts}),
        reported(memory.shared, numbers.config) {}

  std::vector<memory_part> parts() const {
    std::vector<memory_part> parts = learned_tensors<P>::parts();
    parts.push_back({"activations", saved.bytes()});
    parts.push_back({"routing, rope, batch", routing.bytes() + rope.bytes() + tokens.bytes() +
                                                 placed.bytes() + numbers.bytes() + reported.bytes()});
    return parts;
  }

  /// Micro-batch `index` as the host wrote it; the first `live_rows` of its rows count as targets, the others
  /// hold -1.
  token_batch micro_batch(index_t index, index_t live_rows) const {
    const view<const std::int32_t, 2> rows = placed.ids[index];
    const index_t width = placed.config.width();
    return {
        .inputs = rows.columns(0, width - 1),
        .labels = rows.columns(1, width),
        .sequence = {.offsets = placed.offsets, .positions = placed.positions, .max_length = shape.length},
        .target_counts = std::vector<index_t>(static_cast<std::size_t>(1 + placed.config.mtp_depth),
                                              live_rows * shape.length)};
  }

  /// All memory that learning changes, in one order for every state of a model: what a copy consists of.
  std::vector<std::span<std::byte>> learned() const {
    std::vector<std::span<std::byte>> all = learned_tensors<P>::learned();
    all.push_back(routing.memory());
    return all;
  }
};

/// What does not depend on the seed and is in no checkpoint: rotary table, sequence offsets.
template <execution_context Ctx, precision P, layout_policy L>
void prepare_state(Ctx& ctx, training_state<P, L>& state) {
  op::decoupled_rope<P, L::rope>::table(ctx,
                                        {.rope = state.masters.config.attention().rope, .table = state.rope});
  state.tokens.set_sequences();
  copy(ctx, static_cast<const batch_tokens&>(state.tokens), static_cast<batch_tokens&>(state.placed));
  op::fill<std::int64_t>::constant(ctx, {.y = state.routing.load.flat(), .value = 0});
  op::fill<std::int64_t>::constant(ctx, {.y = state.reported.load.flat(), .value = 0});
}

/// A run before its first step. Every rank makes its tensors whole and keeps its parts.
template <execution_context Ctx, precision P, layout_policy L>
void initialize_state(Ctx& ctx, training_state<P, L>& state, std::uint64_t seed) {
  prepare_state(ctx, state);
  for (const parameter<P>& row : state.parameters) {
    initialize_parameter(ctx, row, state.masters.config, seed);
    op::fill<moment<P>>::constant(ctx, {.y = row.m, .value = 0});
    op::fill<moment<P>>::constant(ctx, {.y = row.v, .value = 0});
  }
  op::fill<master<P>>::constant(ctx, {.y = state.routing.bias.flat(), .value = 0});
  state.progress = training_progress{.seed = seed};
}

}  // namespace dsv3::inline DSV3_ABI
