// SPDX-License-Identifier: MIT
#include "run.hpp"

#include <support/cpu_place.hpp>

template <>
void generate::run_on_cpu<dsv3::fp8_tilewise>(const request& asked) {
  run_at<dsv3::fp8_tilewise, support::cpu_place>(asked);
}
