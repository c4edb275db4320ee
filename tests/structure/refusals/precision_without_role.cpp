// SPDX-License-Identifier: MIT
// A precision that forgets a role is refused by the role's name.
// errors: 1
// says: names_moment
#include <dsv3/number/precision.hpp>

struct forgetful {
  using activation = float;
  using weight = float;
  using master = float;
  using gradient = float;
#if defined(DSV3_ALLOWED)
  using moment = float;
#endif
  using accumulator = float;
  using operand = dsv3::dense_operand<float>;
};

static_assert(dsv3::precision<forgetful>);
