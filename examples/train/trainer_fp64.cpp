// SPDX-License-Identifier: MIT
// The trainer in fp64.
#include "trainer_body.hpp"

const dsv3_train::trainer_kind dsv3_train::fp64_trainer{trainer_of<dsv3::fp64_reference>::plan,
                                                        trainer_of<dsv3::fp64_reference>::make};
