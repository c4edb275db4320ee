// SPDX-License-Identifier: MIT
// A model of a few thousand parameters with every feature on, and batches of random tokens for it.
#pragma once

#include <dsv3/cpu.hpp>
#include <dsv3/train/step.hpp>

#include <cstring>
#include <string>
#include <vector>

namespace support {

using dsv3::index_t;

inline dsv3::model_config small_config() {
  return {.vocab = 19,
          .hidden = 16,
          .layers = 2,
          .dense_layers = 1,
          .mtp_depth = 1,
          .dense_inner = 24,
          .heads = 2,
          .q_rank = 12,
          .kv_rank = 8,
          .qk_nope = 6,
          .qk_rope = 4,
          .v_dim = 6,
          .expert_inner = 8,
          .experts = 8,
          .shared_experts = 1,
          .top_k = 2,
          .groups = 4,
          .kept_groups = 2,
          .routed_scale = 2.5,
          .rope = {.factor = 4, .original_length = 8},
          .max_positions = 32,
          .init_deviation = 0.2};
}

/// A run of the small model: state, context with exactly the measured scratch, random tokens.
template <class P>
struct small_run {
  dsv3::host_memory memory;
  dsv3::deepseek_v3<P, dsv3::compact_layout> model{small_config()};
  dsv3::training_state<P, dsv3::compact_layout> state;
  dsv3::cpu_context<> ctx{.threads = 2};
  dsv3::step_options options{.learning_rate = 1e-2, .mtp_weight = 0.3, .balance = {.coefficient = 1e-2}};

  explicit small_run(const dsv3::step_shape& step) : state(memory, model, step) {
    ctx.scratch = dsv3::scratch_arena{memory, dsv3::scratch_bytes(ctx, model, state)};
    dsv3::initialize_state(ctx, state, 7);
  }

  /// Tokens that depend on `seed` alone, however they are split into micro-batches.
  std::vector<dsv3::token_batch> batches(std::uint64_t seed) {
    const auto ids = state.tokens.ids;
    for (index_t i = 0; i < ids.size(); ++i)
      ids.data()[i] = static_cast<std::int32_t>(
          dsv3::random_stream{seed, 1}.below(static_cast<std::uint64_t>(model.config.vocab), i));
    std::vector<dsv3::token_batch> result;
    for (index_t m = 0; m < state.shape.micro_batches; ++m)
      result.push_back(state.micro_batch(m, state.shape.rows));
    return result;
  }

  dsv3::step_report step(std::uint64_t seed) {
    const auto all = batches(seed);
    return dsv3::train_step(ctx, model, state, all, options);
  }

  /// Every byte that a step may change and a later one reads.
  std::string learned() {
    std::string bytes;
    const auto take = [&](const std::string&, const dsv3::shape&, auto& field) {
      bytes.append(reinterpret_cast<const char*>(field.data()),
                   static_cast<std::size_t>(field.size()) * sizeof(*field.data()));
    };
    dsv3::for_each_field(take, state.masters);
    dsv3::for_each_field(take, state.weights);
    dsv3::for_each_field(take, state.first_moments);
    dsv3::for_each_field(take, state.second_moments);
    dsv3::for_each_field(take, state.routing);
    return bytes;
  }
};

}  // namespace support
