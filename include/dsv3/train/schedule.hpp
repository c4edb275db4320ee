// SPDX-License-Identifier: MIT
// What changes while a model trains: learning rate, batch, bias update rate, weight of the MTP losses.
#pragma once

#include <dsv3/base/index.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// What a schedule is read against.
enum class schedule_clock { steps, tokens };

/// Where a run is before its next step.
struct schedule_position {
  index_t steps = 0, tokens = 0;  // done, consumed

  double on(schedule_clock clock) const {
    return static_cast<double>(clock == schedule_clock::steps ? steps : tokens);
  }
};

/// A value that changes at once: from `from` on it is `value`.
struct schedule_stage {
  double from = 0, value = 0;
};

/// The value of the last stage that has begun; stages ascend, and before the first one it is `otherwise`.
inline double stage_value(const std::vector<schedule_stage>& stages, double at, double otherwise) {
  for (const schedule_stage& stage : stages)
    if (at >= stage.from) otherwise = stage.value;
  return otherwise;
}

/// Linear warm-up from zero, constant, half a cosine down, then constant stages.
///   rate = peak · step / warmup_steps                                          step <= warmup_steps, from 1
///   rate = final + (peak − final)(1 + cos(π x)) / 2     x = (at − decay_from) / (decay_until − decay_from)
struct learning_rate_schedule {
  double peak = 2.2e-4, final = 2.2e-5;
  index_t warmup_steps = 2000;
  double decay_from = 0, decay_until = 0;  // on the schedule's clock; equal: a drop
  std::vector<schedule_stage> after = {};  // on the schedule's clock, at decay_until or later

  double rate(const schedule_position& position, schedule_clock clock) const {
    const double step = static_cast<double>(position.steps + 1), at = position.on(clock);
    double value = peak;
    if (at >= decay_until)
      value = stage_value(after, at, final);
    else if (at > decay_from)
      value = final + (peak - final) *
                          (1 + std::cos(3.141592653589793 * (at - decay_from) / (decay_until - decay_from))) /
                          2;
    return value * std::min(1.0, step / static_cast<double>(std::max<index_t>(warmup_steps, 1)));
  }
};

/// Sequences of a step: they grow linearly with the tokens consumed, in whole multiples.
struct batch_ramp {
  index_t begin = 0, end = 0;  // sequences
  double until_tokens = 0;     // 0: `end` at once
  index_t multiple = 1;        // sequences

  index_t sequences(index_t tokens) const {
    const double share = until_tokens > 0 ? std::min(1.0, static_cast<double>(tokens) / until_tokens) : 1.0;
    const double wanted = static_cast<double>(begin) + share * static_cast<double>(end - begin);
    return std::max(static_cast<index_t>(wanted) / multiple, index_t{1}) * multiple;
  }
};

/// Everything that changes, on one clock.
struct training_schedule {
  schedule_clock clock = schedule_clock::steps;
  learning_rate_schedule learning_rate;
  std::vector<schedule_stage> bias_rate;   // gamma
  std::vector<schedule_stage> mtp_weight;  // lambda
  batch_ramp batch;

  struct values {
    double learning_rate = 0, bias_rate = 0, mtp_weight = 0;
    index_t sequences = 0;
  };
  values at(const schedule_position& position) const {
    const double now = position.on(clock);
    return {.learning_rate = learning_rate.rate(position, clock),
            .bias_rate = stage_value(bias_rate, now, 0),
            .mtp_weight = stage_value(mtp_weight, now, 0),
            .sequences = batch.sequences(position.tokens)};
  }

  /// The recipe of 14.8T tokens (report, section 4.2). The ramp's shape is not stated there; it is linear
  /// here.
  static training_schedule deepseek_v3() {
    training_schedule s;
    s.clock = schedule_clock::tokens;
    s.learning_rate = learning_rate_schedule{
        .peak = 2.2e-4, .final = 2.2e-5, .warmup_steps = 2000, .decay_from = 10e12, .decay_until = 14.3e12};
    s.learning_rate.after = {{14.633e12, 7.3e-6}};
    s.bias_rate = {{0, 0.001}, {14.3e12, 0}};
    s.mtp_weight = {{0, 0.3}, {10e12, 0.1}};
    s.batch = batch_ramp{.begin = 3072, .end = 15360, .until_tokens = 469e9};
    return s;
  }

  /// The same shape for a run of a few hundred or thousand steps, without its last two plateaus: they serve a
  /// decay that ends long before the run does. Shares are of the steps.
  struct short_options {
    index_t steps = 1000, sequences = 1;
    double peak = 1e-3, final = 1e-4;
    index_t warmup_steps = 20;
    double constant_share = 0.676;                   // 10T of 14.8T
    double bias_rate = 0.001, frozen_share = 0.966;  // 14.3T of 14.8T
    double mtp_weight = 0.3, late_mtp_weight = 0.1;
  };
  static training_schedule short_run(const short_options& o) {
    const double steps = static_cast<double>(o.steps);
    training_schedule s;
    s.learning_rate = learning_rate_schedule{.peak = o.peak,
                                             .final = o.final,
                                             .warmup_steps = o.warmup_steps,
                                             .decay_from = o.constant_share * steps,
                                             .decay_until = steps};
    s.bias_rate = {{0, o.bias_rate}, {o.frozen_share * steps, 0}};
    s.mtp_weight = {{0, o.mtp_weight}, {0.676 * steps, o.late_mtp_weight}};
    s.batch = batch_ramp{.begin = o.sequences, .end = o.sequences};
    return s;
  }
};

}  // namespace dsv3::inline DSV3_ABI
