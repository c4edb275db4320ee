// SPDX-License-Identifier: MIT
// The shadow of one precision.
#pragma once

#include "shadow.hpp"
#include "state_files.hpp"

#include <dsv3/cpu.hpp>

namespace dsv3_train {

/// The gradients of a step, and nothing else of it: no update, no load counted.
template <class Ctx, dsv3::precision P>
void gradients_of(Ctx& ctx, const dsv3::deepseek_v3<P, layout>& model, dsv3::training_state<P, layout>& state,
                  std::span<const dsv3::token_batch> batches, const dsv3::step_options& options) {
  const dsv3::detail::step_phases<P, layout> phases{model, state, options};
  index_t sequences = 0;
  std::vector<index_t> counts(batches.front().target_counts.size());
  for (const dsv3::token_batch& batch : batches) {
    sequences += batch.sequence.sequences();
    for (std::size_t k = 0; k < counts.size(); ++k) counts[k] += batch.target_counts[k];
  }
  dsv3::op::fill<double>::constant(ctx, {.y = state.numbers.losses.flat(), .value = 0});
  phases.gradients(ctx, batches, counts, sequences);
  dsv3::op::fill<std::int64_t>::constant(ctx, {.y = state.routing.load.flat(), .value = 0});
}

template <dsv3::precision P>
class shadow_of final : public shadow {
 public:
  explicit shadow_of(const run_settings& settings)
      : model_{settings.model}, state_(memory_, model_, settings.shape) {
    ctx_.threads = settings.threads;
    ctx_.scratch = dsv3::scratch_arena{memory_, dsv3::scratch_bytes(ctx_, model_, state_)};
    dsv3::prepare_state(ctx_, state_);
  }

  void run(const std::vector<dsv3::view<const float, 1>>& masters, dsv3::view<const float, 2> bias,
           std::span<const dsv3::token_batch> batches, const dsv3::step_options& options) override {
    for (std::size_t i = 0; i < masters.size(); ++i) {
      const dsv3::parameter<P>& row = state_.parameters[i];
      std::copy_n(masters[i].data(), row.p.size(), row.p.data());
      dsv3::adopt_master(ctx_, row, state_.masters.config.recipe);
    }
    std::copy_n(bias.data(), bias.size(), state_.routing.bias.data());
    gradients_of(ctx_, model_, state_, batches, options);
  }
  dsv3::view<const float, 1> gradient(std::size_t tensor) const override {
    return state_.parameters[tensor].g;
  }

 private:
  dsv3::host_memory memory_;
  dsv3::deepseek_v3<P, layout> model_;
  dsv3::training_state<P, layout> state_;
  dsv3::cpu_context<> ctx_;
};

}  // namespace dsv3_train
