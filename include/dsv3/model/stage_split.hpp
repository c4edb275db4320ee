// SPDX-License-Identifier: MIT
// Which blocks each stage of a pipeline has, so that none takes much longer than another.
#pragma once

#include <dsv3/model/bundles.hpp>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Multiply-adds of one token in one part of the network, as numbers of the matrices it meets: what stages
/// are balanced by. Attention over other tokens is left out, it is the same in every block.
class stage_costs {
 public:
  explicit stage_costs(model_config config) : config_(std::move(config)) {
    config_.held.clear();
    config_.expert_ranks = 1, config_.expert_rank = 0;
  }

  /// Of a block of the main model, or of an MTP module's.
  double block(index_t layer) const {
    const block_config c = config_.block(layer);
    const auto all = static_cast<double>(elements_of<block_tensors<float>>(c));
    if (c.kind == feed_forward::dense) return all;
    const auto experts = static_cast<double>(config_.experts * 3 * config_.hidden * config_.expert_inner);
    return all - experts * (1 - static_cast<double>(config_.top_k) / static_cast<double>(config_.experts));
  }
  /// Of what follows the last block: the head once for every depth, and the MTP modules.
  double output() const {
    const auto hidden = static_cast<double>(config_.hidden);
    double sum = hidden * static_cast<double>(config_.vocab);
    for (index_t k = 0; k < config_.mtp_depth; ++k)
      sum += block(config_.layers + k) + 2 * hidden * hidden + hidden * static_cast<double>(config_.vocab);
    return sum;
  }
  double stage(const model_stage& s) const {
    double sum = config_.ends(s) ? output() : 0;
    for (index_t l = s.first; l < s.last; ++l) sum += block(l);
    return sum;
  }

 private:
  model_config config_;
};

inline status check_stage_split(const model_config& config, index_t stages) {
  if (stages >= 1 && stages <= config.layers) return {};
  return status{"pipeline: found " + std::to_string(stages) + " stages for " + std::to_string(config.layers) +
                " blocks, expected 1 to " + std::to_string(config.layers)};
}

/// The blocks of each stage: the split whose costliest stage costs least. Embedding rows are looked up, not
/// multiplied; they count nothing.
inline std::vector<model_stage> stage_split(const model_config& config, index_t stages) {
  require(check_stage_split(config, stages));
  const stage_costs costs{config};
  std::vector<double> before{0};  // of the first blocks, by their number
  for (index_t l = 0; l < config.layers; ++l) before.push_back(before.back() + costs.block(l));
  const auto at = [](index_t i) { return static_cast<std::size_t>(i); };
  // least[s][n]: the costliest of s stages that have the first n blocks; from[s][n]: where the last begins.
  const std::vector<double> never(before.size(), std::numeric_limits<double>::infinity());
  std::vector<std::vector<double>> least(at(stages + 1), never);
  std::vector<std::vector<index_t>> from(at(stages + 1), std::vector<index_t>(before.size()));
  least[0][0] = 0;
  for (index_t s = 1; s <= stages; ++s)
    for (index_t n = s; n <= config.layers; ++n)
      for (index_t first = s - 1; first < n; ++first) {
        const double own = before[at(n)] - before[at(first)] + (n == config.layers ? costs.output() : 0);
        const double costliest = std::max(least[at(s - 1)][at(first)], own);
        if (costliest < least[at(s)][at(n)]) least[at(s)][at(n)] = costliest, from[at(s)][at(n)] = first;
      }
  std::vector<model_stage> split(at(stages));
  index_t end = config.layers;
  for (index_t s = stages; s >= 1; --s) {
    const index_t first = from[at(s)][at(end)];
    split[at(s - 1)] = model_stage{first, end};
    end = first;
  }
  return split;
}

}  // namespace dsv3::inline DSV3_ABI
