// SPDX-License-Identifier: MIT
// The figures of a plan: a name, a number and the formula behind it.
#pragma once

#include <dsv3/io/json.hpp>
#include <dsv3/model/accounting.hpp>
#include <dsv3/train/cluster_account.hpp>

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

/// A whole training run: `tokens` of it, and the GPU hours of what else belongs to it.
struct training_run {
  double tokens = 14.8e12;
  double further_hours = 124e3;       // context extension and post-training
  double hours_per_trillion = 180e3;  // as measured; what the estimate is held against
};

/// Memory, exchange, time and cost on many GPUs.
std::vector<figure> cluster_figures(const dsv3::model_config& model, const dsv3::cluster_layout& layout,
                                    const dsv3::gpu_figures& gpu, const dsv3::cost_assumptions& assumed,
                                    const training_run& training);

}  // namespace plan
