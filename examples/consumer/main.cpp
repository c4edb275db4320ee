// SPDX-License-Identifier: MIT
// One block of the library on our own pointers: no framework, no model, nothing allocated.
#include <dsv3/cpu/norm/rms_norm.hpp>

#include <cstdio>

int main() {
  constexpr int tokens = 2, hidden = 4;
  const float x[tokens * hidden] = {1, 2, 3, 4, -2, 0, 2, 0};
  const float gain[hidden] = {1, 1, 1, 0.5f};
  float y[tokens * hidden];

  dsv3::cpu_context<> ctx{.threads = 1};
  dsv3::op::rms_norm<dsv3::fp32>::forward(ctx, {.x = dsv3::view{x, tokens, hidden},
                                                .gain = dsv3::view{gain, hidden},
                                                .y = dsv3::view{y, tokens, hidden}});

  for (int token = 0; token < tokens; ++token)
    std::printf("%.4f %.4f %.4f %.4f\n", y[token * 4], y[token * 4 + 1], y[token * 4 + 2], y[token * 4 + 3]);
}
