// SPDX-License-Identifier: MIT
// Splitting a network into stages: every block once, and no split is better balanced.
#include <dsv3/model/stage_split.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <vector>

using namespace dsv3;

namespace {

double costliest(const model_config& config, const std::vector<model_stage>& split) {
  const stage_costs costs{config};
  double most = 0;
  for (const model_stage& stage : split) most = std::max(most, costs.stage(stage));
  return most;
}

// The least costliest stage over all splits, tried one by one.
double best_of_all(const model_config& config, index_t stages) {
  double best = 1e300;
  std::vector<model_stage> split;
  const std::function<void(index_t)> rest = [&](index_t first) {
    const index_t left = stages - static_cast<index_t>(split.size());
    if (left == 0) {
      if (first == config.layers) best = std::min(best, costliest(config, split));
      return;
    }
    for (index_t last = first + 1; last <= config.layers; ++last) {
      split.push_back({first, last});
      rest(last);
      split.pop_back();
    }
  };
  rest(0);
  return best;
}

}  // namespace

TEST_CASE("every block stands in one stage, and no split is better balanced") {
  model_config config = model_config::tiny();
  config.layers = 9, config.dense_layers = 2;
  for (const index_t depth : {0, 1, 2})
    for (index_t stages = 1; stages <= config.layers; ++stages) {
      config.mtp_depth = depth;
      const auto split = stage_split(config, stages);
      REQUIRE(static_cast<index_t>(split.size()) == stages);
      index_t next = 0;
      for (const model_stage& stage : split) {
        CHECK(stage.first == next);
        CHECK(stage.blocks() > 0);
        next = stage.last;
      }
      CHECK(next == config.layers);
      CHECK(costliest(config, split) == doctest::Approx(best_of_all(config, stages)).epsilon(1e-12));
    }
}

TEST_CASE("the released model in sixteen stages") {
  const model_config config = model_config::deepseek_v3();
  const auto split = stage_split(config, 16);
  const stage_costs costs{config};
  CHECK(costs.block(0) == doctest::Approx(costs.block(3)).epsilon(0.01));  // nine experts, or as wide
  CHECK(costs.output() > 4 * costs.block(3));                              // two heads and the MTP module
  for (std::size_t i = 0; i + 1 < split.size(); ++i) CHECK(split[i].blocks() == 4);
  CHECK(split.back().blocks() == 1);
}

TEST_CASE("a stage without blocks is refused") {
  const model_config config = model_config::tiny();
  CHECK(check_stage_split(config, 4).good());
  CHECK(check_stage_split(config, 5).message() == "pipeline: found 5 stages for 4 blocks, expected 1 to 4");
  CHECK(check_stage_split(config, 0).message() == "pipeline: found 0 stages for 4 blocks, expected 1 to 4");
}
