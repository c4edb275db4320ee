// SPDX-License-Identifier: MIT
// One rank of a mesh that trains the small model: its stages, its experts, its tokens.
#pragma once

#include <train/small.hpp>

#include <dsv3/train/pipeline/model_stages.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace support {

/// Ranks, their schedule, and the micro-batches that each data and expert rank reads in a step.
struct ranks_layout {
  dsv3::mesh_shape shape;
  std::string schedule;
  index_t micro_batches = 1;
};

template <class P>
struct rank_of_mesh {
  using L = dsv3::compact_layout;
  static constexpr index_t rows = 1, length = 6;

  dsv3::mesh ranks;
  const dsv3::pipeline::method& schedules;
  dsv3::pipeline::placement places;
  std::vector<dsv3::model_stage> split;
  dsv3::deepseek_v3<P, L> model;
  dsv3::host_memory memory;
  dsv3::training_state<P, L> state;
  dsv3::pipeline::model_stages<P, L> stages;
  dsv3::cpu_context<> ctx{.threads = 1};

  rank_of_mesh(const dsv3::any_communicator& world, const dsv3::model_config& config, const ranks_layout& of)
      : ranks(world, of.shape),
        schedules(dsv3::pipeline::method_named(of.schedule)),
        places(schedules.places(of.shape.pipeline)),
        split(dsv3::stage_split(config, places.stages())),
        model{.config = own_part(config), .experts_among = ranks.experts},
        state(memory, model, {.micro_batches = of.micro_batches, .rows = rows, .length = length},
              dsv3::training_ranks{ranks, places, config.mtp_depth > 0}),
        stages(memory, schedules, ranks.stages, split) {
    ctx.scratch = dsv3::scratch_arena{memory, dsv3::scratch_bytes(ctx, model, state, nullptr, stages)};
    dsv3::initialize_state(ctx, state, 7);
  }

  dsv3::step_report step(std::uint64_t seed, const dsv3::step_options& options) {
    return dsv3::train_step(ctx, model, state, batches_of(state, seed, ranks.dense.rank()), options,
                            dsv3::directly{}, stages);
  }

  /// The micro-batches of data and expert rank `source`, of the same tokens however they are shared out.
  static std::vector<dsv3::token_batch> batches_of(dsv3::training_state<P, L>& state, std::uint64_t seed,
                                                   int source) {
    const auto ids = state.tokens.ids;
    for (index_t i = 0; i < ids.size(); ++i)
      ids.data()[i] = static_cast<std::int32_t>(
          dsv3::random_stream{seed, 1}.below(static_cast<std::uint64_t>(state.masters.config.vocab),
                                             static_cast<std::uint64_t>(source * ids.size() + i)));
    std::vector<dsv3::token_batch> batches;
    for (index_t m = 0; m < state.shape.micro_batches; ++m) batches.push_back(state.micro_batch(m, rows));
    return batches;
  }

 private:
  dsv3::model_config own_part(dsv3::model_config config) const {
    config.held = dsv3::pipeline::stages_of(places, ranks.place.pipeline, split);
    config.expert_ranks = ranks.shape.expert, config.expert_rank = ranks.place.expert;
    dsv3::require(config.check());
    return config;
  }
};

inline dsv3::model_config deep_config() {
  dsv3::model_config c = small_config();
  c.layers = 8, c.dense_layers = 2;
  return c;
}

inline dsv3::step_options some_options() {
  return {.learning_rate = 1e-2, .mtp_weight = 0.3, .balance = {.coefficient = 1e-2}};
}

}  // namespace support
