// SPDX-License-Identifier: MIT
// The trainer in fp32.
#include "trainer_body.hpp"

const dsv3_train::trainer_kind dsv3_train::fp32_trainer{trainer_of<dsv3::fp32>::plan,
                                                        trainer_of<dsv3::fp32>::make};
