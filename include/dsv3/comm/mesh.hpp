// SPDX-License-Identifier: MIT
// Which rank is where: data x expert x pipeline coordinates, and the groups that exchange data.
#pragma once

#include <dsv3/comm/any_communicator.hpp>

#include <string>
#include <utility>

namespace dsv3::inline DSV3_ABI {

/// A rank's place. Every rank has tokens of its own: those of one expert group share a set of routed experts,
/// those of one stage share its dense weights.
struct mesh_place {
  int data = 0, expert = 0, pipeline = 0;

  friend bool operator==(const mesh_place&, const mesh_place&) = default;
};

/// How many ranks there are along each axis, and the numbering of all of them:
///
///     rank = (pipeline * data ranks + data) * expert ranks + expert
///
/// Expert ranks are neighbours: they exchange rows of tokens four times a layer and micro-batch, which wants
/// the fastest links, those inside a machine. Replicas come next: they reduce gradients once a step. Stages
/// are furthest apart, as they pass on one activation a micro-batch.
struct mesh_shape {
  static constexpr int most = 1 << 20;  // along one axis

  int data = 1, expert = 1, pipeline = 1;

  constexpr int ranks() const { return data * expert * pipeline; }

  constexpr int rank_of(const mesh_place& p) const {
    return (p.pipeline * data + p.data) * expert + p.expert;
  }
  constexpr mesh_place place_of(int rank) const {
    return {.data = rank / expert % data, .expert = rank % expert, .pipeline = rank / expert / data};
  }

  /// Whether so many ranks fill the mesh.
  status check(int world) const {
    for (const auto& [count, axis] :
         {std::pair{data, "data"}, std::pair{expert, "expert"}, std::pair{pipeline, "pipeline"}})
      if (count < 1 || count > most)
        return status{"mesh: found " + std::to_string(count) + " " + axis + " ranks, expected 1 to " +
                      std::to_string(most)};
    const index_t needed = index_t{data} * expert * pipeline;
    if (needed != world)
      return status{"mesh " + words() + " (data x expert x pipeline) needs " + std::to_string(needed) +
                    " ranks, there are " + std::to_string(world)};
    return {};
  }
  /// Whether the routed experts divide evenly; every expert rank holds as many.
  status check_experts(index_t experts) const {
    if (experts % expert == 0) return {};
    return status{"mesh " + words() + ": " + std::to_string(experts) + " experts do not divide among " +
                  std::to_string(expert) + " expert ranks"};
  }

  std::string words() const {
    return std::to_string(data) + " x " + std::to_string(expert) + " x " + std::to_string(pipeline);
  }

  friend bool operator==(const mesh_shape&, const mesh_shape&) = default;
};

/// A rank's place and its groups. Without engines (one rank) all of them are that rank.
///
///     mesh ranks{world, {.data = 2, .expert = 2, .pipeline = 2}};
struct mesh {
  mesh() = default;
  /// Collective over `all`.
  mesh(const any_communicator& all, mesh_shape extents) : shape(extents), world(all) {
    require(shape.check(world.size()));
    place = shape.place_of(world.rank());
    const int stage = place.pipeline;
    experts = world.split(stage * shape.data + place.data, place.expert);
    replicas = world.split(stage * shape.expert + place.expert, place.data);
    dense = world.split(stage, place.data * shape.expert + place.expert);
    stages = world.split(place.data * shape.expert + place.expert, stage);
  }

  mesh_shape shape;
  mesh_place place;
  any_communicator world;
  any_communicator experts;   // hold all routed experts of a stage between them; exchange tokens
  any_communicator replicas;  // hold the same experts; sum these experts' gradients
  any_communicator dense;     // hold the same dense weights: data x expert; sum their gradients
  any_communicator stages;    // hold all layers between them; pass on activations
};

}  // namespace dsv3::inline DSV3_ABI
