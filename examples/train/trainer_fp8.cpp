// SPDX-License-Identifier: MIT
// The trainer in 8-bit tiles.
#include "trainer_body.hpp"

const dsv3_train::trainer_kind dsv3_train::fp8_trainer{trainer_of<dsv3::fp8_tilewise>::plan,
                                                       trainer_of<dsv3::fp8_tilewise>::make};
