// SPDX-License-Identifier: MIT
#include "operand_watch.hpp"

#include "shadow_body.hpp"

#include <utility>

dsv3::quantizer_log dsv3_train::watch_gradients(dsv3::scratch_arena& scratch, int threads,
                                                const dsv3::deepseek_v3<dsv3::fp8_tilewise, layout>& model,
                                                dsv3::training_state<dsv3::fp8_tilewise, layout>& state,
                                                std::span<const dsv3::token_batch> batches,
                                                const dsv3::step_options& options) {
  dsv3::quantizer_log log;
  for (const dsv3::parameter<dsv3::fp8_tilewise>& row : state.parameters)
    if (!row.tiles.empty()) log.name(row.tiles.values.data(), row.g.data(), row.name);
  dsv3::cpu_context<dsv3::backend::watch_quantizers<dsv3::backend::cpu>> ctx{
      .threads = threads, .scratch = std::move(scratch), .state = {&log}};
  gradients_of(ctx, model, state, batches, options);
  scratch = std::move(ctx.scratch);
  return log;
}
