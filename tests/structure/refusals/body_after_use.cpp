// SPDX-License-Identifier: MIT
// Compilers remember that there was no body; one that comes after the first use is not found.
// errors: 1
// says: before the first use
#include <dsv3/op/norm/rms_norm.hpp>

struct own_backend {};
using operation = dsv3::op::rms_norm<dsv3::fp32>;

#if !defined(DSV3_ALLOWED)
static_assert(!dsv3::implements<operation, own_backend>);
#endif

template <>
struct dsv3::implementation<operation, own_backend> {
  template <class Ctx, class Args>
  static void run(Ctx&, const Args&) {}
};

void normalize(dsv3::cpu_context<own_backend>& ctx, const operation::forward_args& args) {
  operation::forward(ctx, args);
}
