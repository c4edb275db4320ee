// SPDX-License-Identifier: MIT
// An operation is called and no wing was included: one sentence names what to include.
// errors: 1
// says: this operation has no body for this backend; include the wing that brings it
// says: dsv3/cpu.hpp or dsv3/cuda.cuh
#if defined(DSV3_ALLOWED)
#include <dsv3/cpu/norm/rms_norm.hpp>
#else
#include <dsv3/op/norm/rms_norm.hpp>
#endif

void normalize(const float* x, const float* gain, float* y, int tokens, int hidden) {
  dsv3::cpu_context<> ctx;
  dsv3::op::rms_norm<dsv3::fp32>::forward(ctx, {.x = dsv3::view{x, tokens, hidden},
                                                .gain = dsv3::view{gain, hidden},
                                                .y = dsv3::view{y, tokens, hidden}});
}
