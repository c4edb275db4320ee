// SPDX-License-Identifier: MIT
// Rotary frequencies, YaRN's stretch of them, and the softmax scale that goes with it (report, section 4.3).
#pragma once

#include <dsv3/base/index.hpp>

#include <algorithm>
#include <cmath>

namespace dsv3::inline DSV3_ABI {

/// The rotary embedding of a model. factor 1 means no YaRN.
struct rope_config {
  double theta = 10000;                  // base of the frequencies
  double factor = 1;                     // context stretch s
  double original_length = 4096;         // trained context, tokens
  double beta_fast = 32, beta_slow = 1;  // ramp limits, rotations over the trained context
  double mscale = 1, mscale_all_dim = 1;

  bool stretched() const { return factor > 1; }

  /// m(s, c) = 0.1 c ln s + 1
  double magnitude(double c) const { return stretched() ? 0.1 * c * std::log(factor) + 1 : 1; }

  /// Multiplier of cos and sin.
  double attention_factor() const { return magnitude(mscale) / magnitude(mscale_all_dim); }

  /// Softmax scale of a head whose queries have qk_dim channels.
  double softmax_scale(index_t qk_dim) const {
    const double m = magnitude(mscale_all_dim);
    return m * m / std::sqrt(static_cast<double>(qk_dim));
  }

  /// Radians per position of rotary pair i, 0 <= i < qk_rope / 2.
  double frequency(index_t i, index_t qk_rope) const {
    const double dim = static_cast<double>(qk_rope);
    const double plain = std::pow(theta, -2.0 * static_cast<double>(i) / dim);
    if (!stretched()) return plain;
    const auto correction = [&](double rotations) {
      return dim * std::log(original_length / (2 * 3.141592653589793 * rotations)) / (2 * std::log(theta));
    };
    const double low = std::max(std::floor(correction(beta_fast)), 0.0);
    double high = std::min(std::ceil(correction(beta_slow)), dim - 1);
    if (low == high) high += 0.001;
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    return plain * (1 - ramp) + plain / factor * ramp;
  }

  bool operator==(const rope_config&) const = default;
};

}  // namespace dsv3::inline DSV3_ABI
