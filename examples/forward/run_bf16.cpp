// SPDX-License-Identifier: MIT
#include "run.hpp"

#include <support/cpu_place.hpp>

template <>
void forward::run_on_cpu<dsv3::bf16_mixed>(const request& asked) {
  run_at<dsv3::bf16_mixed, support::cpu_place>(asked);
}
