// SPDX-License-Identifier: MIT
// Which of a run's ranks share what, and which part of a tensor each of them keeps (ZeRO-1).
#pragma once

#include <dsv3/comm/any_communicator.hpp>
#include <dsv3/comm/mesh.hpp>
#include <dsv3/train/pipeline/placement.hpp>

#include <algorithm>
#include <string>

namespace dsv3::inline DSV3_ABI {

/// Parameters that lie on the same ranks. Every rank that learns from tokens of its own has a copy of the
/// dense ones; a rank's experts are met by the tokens of all expert ranks, and copied by data ranks alone;
/// the embedding is needed where a model begins, and by MTP modules where it ends.
enum class copied { dense, experts, embedding };

/// Of the tensor of this name in the table of contents.
inline copied copied_as(const std::string& name) {
  if (name.find(".mlp.experts.") != name.npos) return copied::experts;
  return name == "model.embed_tokens.weight" ? copied::embedding : copied::dense;
}

/// The groups of a run's ranks that this rank is in; by default it is alone.
struct training_ranks {
  training_ranks() = default;

  any_communicator all = {};        // of the whole run
  any_communicator tokens = {};     // of other tokens in the same stages
  any_communicator dense = {};      // each with a copy of this rank's dense parameters,
  any_communicator experts = {};    // of its experts,
  any_communicator embedding = {};  // of the embedding

  const any_communicator& copies(copied kind) const {
    return kind == copied::experts ? experts : kind == copied::embedding ? embedding : dense;
  }

  /// Data ranks alone: everybody has everything, and tokens of its own.
  static training_ranks data(const any_communicator& ranks) {
    training_ranks own;
    own.all = own.tokens = own.dense = own.experts = own.embedding = ranks;
    return own;
  }

  /// Of a mesh whose pipelines have their stages at `places`; collective. Where micro-batches go both ways,
  /// two ranks of a pipeline have copies of the same stages.
  training_ranks(const mesh& m, const pipeline::placement& places, bool has_mtp)
      : all(m.world), tokens(m.dense) {
    if (places.ranks() != m.shape.pipeline)
      raise("training: the schedule is for " + std::to_string(places.ranks()) +
            " pipeline ranks, the mesh has " + std::to_string(m.shape.pipeline));
    int first = places.stages();  // the first of the stages here tells which they are
    bool embeds = false;
    for (int chunk = 0; chunk < places.chunks(); ++chunk) {
      const pipeline::location here{m.place.pipeline, chunk};
      first = std::min(first, places.stage_of(here));
      embeds = embeds || places.is_first(here) || (has_mtp && places.is_last(here));
    }
    const int key = m.world.rank();
    dense = m.world.split(first, key);
    experts = m.world.split(first * m.shape.expert + m.place.expert, key);
    embedding = m.world.split(embeds ? 0 : 1, key);
  }
};

/// Rank r of those that have a copy keeps elements [r part, (r + 1) part) of a tensor: their masters and
/// moments, and the sum of their gradients.
struct shard {
  index_t elements = 0;  // of the tensor
  int ranks = 1, rank = 0;

  /// As many for every rank, the tensor made longer where they do not fill it; each begins on a cache line.
  index_t part() const {
    constexpr index_t line = 64;
    return ranks == 1 ? elements : round_up(ceil_div(elements, index_t{ranks}), line);
  }
  index_t padded() const { return part() * ranks; }
  index_t begin() const { return std::min(rank * part(), elements); }
  index_t end() const { return std::min(begin() + part(), elements); }
  index_t count() const { return end() - begin(); }
  bool whole() const { return ranks == 1; }

  /// This rank's part of what all parts are put together in, what makes the tensor longer included.
  template <class T>
  view<T, 1> own(view<T, 1> all) const {
    return all.rows(rank * part(), (rank + 1) * part());
  }
};

}  // namespace dsv3::inline DSV3_ABI
