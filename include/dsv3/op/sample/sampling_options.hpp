// SPDX-License-Identifier: MIT
// How the next token of one sequence is chosen from its logits.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>

#include <cmath>
#include <string>

namespace dsv3::inline DSV3_ABI {

/// The defaults are greedy decoding: the first of the largest logits.
struct sampling_options {
  double temperature = 0;         // 0: greedy, whatever top_k and top_p say; 1: the model's distribution
  index_t top_k = 0;              // keep so many of the most likely tokens; 0: all
  double top_p = 1;               // of these the fewest whose share is at least so much; 1: all
  double repetition_penalty = 1;  // above 1 makes seen tokens less likely; 1: none

  DSV3_HOST_DEVICE bool greedy() const { return temperature == 0; }

  status check() const {
    const auto wrong = [](const char* name, const std::string& found, const char* expected) {
      return status{std::string("sampling_options: ") + name + " is " + found + ", expected " + expected};
    };
    if (!(temperature >= 0 && std::isfinite(temperature)))
      return wrong("temperature", std::to_string(temperature), "a finite number of at least 0");
    if (top_k < 0) return wrong("top_k", std::to_string(top_k), "at least 0");
    if (!(top_p > 0 && top_p <= 1)) return wrong("top_p", std::to_string(top_p), "above 0 and at most 1");
    if (!(repetition_penalty > 0 && std::isfinite(repetition_penalty)))
      return wrong("repetition_penalty", std::to_string(repetition_penalty), "a finite number above 0");
    return {};
  }
};

}  // namespace dsv3::inline DSV3_ABI
