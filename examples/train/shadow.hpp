// SPDX-License-Identifier: MIT
// The gradients of a step once more, in another precision.
#pragma once

#include "settings.hpp"

#include <dsv3/number/precision.hpp>
#include <dsv3/train/quantizer_watch.hpp>
#include <dsv3/train/step.hpp>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dsv3_train {

/// How far the gradients are from those of the other precision, and what became of the quantised operands.
struct shadow_record {
  std::vector<std::pair<std::string, double>> gradient_error;  // by tensor: |g - g'| / |g'|
  std::vector<std::pair<std::string, dsv3::quantized_share>> operands;
};

class shadow {
 public:
  virtual ~shadow() = default;
  /// Takes masters and routing bias from the run, and makes the gradients of its batches.
  virtual void run(const std::vector<dsv3::view<const float, 1>>& masters, dsv3::view<const float, 2> bias,
                   std::span<const dsv3::token_batch> batches, const dsv3::step_options& options) = 0;
  /// Of one tensor, in the order of the table of contents.
  virtual dsv3::view<const float, 1> gradient(std::size_t tensor) const = 0;
};

std::unique_ptr<shadow> make_bf16_shadow(const run_settings& settings);

}  // namespace dsv3_train
