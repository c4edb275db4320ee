// SPDX-License-Identifier: MIT
// The trainer in bf16, and the shadow that others are compared with.
#include "shadow_body.hpp"
#include "trainer_body.hpp"

const dsv3_train::trainer_kind dsv3_train::bf16_trainer{trainer_of<dsv3::bf16_mixed>::plan,
                                                        trainer_of<dsv3::bf16_mixed>::make};

std::unique_ptr<dsv3_train::shadow> dsv3_train::make_bf16_shadow(const run_settings& settings) {
  return std::make_unique<shadow_of<dsv3::bf16_mixed>>(settings);
}
