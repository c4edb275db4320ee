// SPDX-License-Identifier: MIT
// The answer of a check is not thrown away unread.
// errors: 1
// says: ignoring returned value of type 'dsv3::v0::status'
#include <dsv3/base/requirements.hpp>

#pragma GCC diagnostic error "-Wunused-result"

void probe() {
  dsv3::requirements need{"probe"};
  need.that(false, "nothing was found");
#if defined(DSV3_ALLOWED)
  (void)need.verdict().good();
#else
  need.verdict();
#endif
}
