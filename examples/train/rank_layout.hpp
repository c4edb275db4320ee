// SPDX-License-Identifier: MIT
// What of a run one of its ranks does: its part of the network, and its share of a step's batches.
#pragma once

#include "settings.hpp"

#include <dsv3/comm/mesh.hpp>
#include <dsv3/model/stage_split.hpp>
#include <dsv3/train/pipeline/model_stages.hpp>

#include <vector>

namespace dsv3_train {

struct rank_layout {
  dsv3::mesh mesh;
  const dsv3::pipeline::method& schedules;
  dsv3::pipeline::placement places;
  std::vector<dsv3::model_stage> split;
  dsv3::model_config config;  // of what lies here
  dsv3::training_ranks groups;
  dsv3::step_shape shape;  // of what is read here

  /// Collective.
  rank_layout(const run_settings& settings, const dsv3::any_communicator& world)
      : mesh(world, settings.mesh),
        schedules(dsv3::pipeline::method_named(settings.pipeline_schedule)),
        places(settings.mesh.pipeline > 1 ? schedules.places(settings.mesh.pipeline)
                                          : dsv3::pipeline::placement::one_way(1)),
        split(dsv3::stage_split(settings.model, places.stages())),
        config(settings.model),
        groups(mesh, places, settings.model.mtp_depth > 0),
        shape(settings.shape) {
    if (pipelined()) config.held = dsv3::pipeline::stages_of(places, mesh.place.pipeline, split);
    config.expert_ranks = mesh.shape.expert, config.expert_rank = mesh.place.expert;
    shape.micro_batches /= readers();
  }

  bool alone() const { return mesh.world.size() == 1; }
  bool first() const { return mesh.world.rank() == 0; }
  bool pipelined() const { return mesh.shape.pipeline > 1; }
  /// Whether the whole network lies here.
  bool whole() const { return !pipelined() && mesh.shape.expert == 1; }
  /// Ranks that read batches of their own; those of one pipeline read the same.
  index_t readers() const { return mesh.dense.size(); }
  index_t reader() const { return mesh.dense.rank(); }
};

}  // namespace dsv3_train
