// SPDX-License-Identifier: MIT
// A record's fields have the precision's types: a pointer to another number is refused where it is written.
// errors: 1
// says: dsv3::v0::view<double, 2, dsv3::v0::row_major>(x, 2, 3)
#include <dsv3/op/norm/rms_norm.hpp>

#if defined(DSV3_ALLOWED)
using number = float;
#else
using number = double;
#endif

dsv3::op::rms_norm<dsv3::fp32>::forward_args record(number* x, const float* gain, float* y) {
  return {.x = dsv3::view{x, 2, 3}, .gain = dsv3::view{gain, 3}, .y = dsv3::view{y, 2, 3}};
}
