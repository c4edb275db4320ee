// SPDX-License-Identifier: MIT
// A step's gradients in 8-bit tiles under watch: what becomes of every number that is quantised on the way.
#pragma once

#include "state_files.hpp"

#include <dsv3/train/quantizer_watch.hpp>
#include <dsv3/train/step.hpp>

#include <span>

namespace dsv3_train {

/// Takes the scratch of the run, and gives it back.
dsv3::quantizer_log watch_gradients(dsv3::scratch_arena& scratch, int threads,
                                    const dsv3::deepseek_v3<dsv3::fp8_tilewise, layout>& model,
                                    dsv3::training_state<dsv3::fp8_tilewise, layout>& state,
                                    std::span<const dsv3::token_batch> batches,
                                    const dsv3::step_options& options);

}  // namespace dsv3_train
