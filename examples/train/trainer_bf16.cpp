// SPDX-License-Identifier: MIT
// The trainer in bf16.
#include "trainer_body.hpp"

const dsv3_train::trainer_kind dsv3_train::bf16_trainer{trainer_of<dsv3::bf16_mixed>::plan,
                                                        trainer_of<dsv3::bf16_mixed>::make};
