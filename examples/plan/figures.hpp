// SPDX-License-Identifier: MIT
// The figures of a plan: a name, a number and the formula behind it.
#pragma once

#include <dsv3/io/json.hpp>
#include <dsv3/model/accounting.hpp>
#include <dsv3/train/state.hpp>

#include <string>
#include <vector>

namespace plan {

struct figure {
  std::string group, name;
  dsv3::json value;  // an integer where the figure is exact
  std::string unit;
  std::string formula;  // in the words of model_config
};

/// Parameters, cache and FLOPs; `length` tokens a row in training, `context` cached tokens in decoding.
std::vector<figure> model_figures(const dsv3::model_account& account, dsv3::index_t length,
                                  dsv3::index_t context);

/// Bytes that training a model takes, by part; the last is scratch. `precision` is fp64, fp32 or bf16.
std::vector<dsv3::memory_part> training_memory(const dsv3::model_config& config, const std::string& precision,
                                               const dsv3::step_shape& step, int threads);

}  // namespace plan
