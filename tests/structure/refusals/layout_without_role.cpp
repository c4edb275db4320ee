// SPDX-License-Identifier: MIT
// A layout policy that forgets a role is refused by the role's name.
// errors: 1
// says: names_expert_layout
#include <dsv3/tensor/layout_policy.hpp>

struct forgetful {
  static constexpr dsv3::rope_layout rope = dsv3::rope_layout::half_split;
  using cache = dsv3::cache_layout::contiguous;
#if defined(DSV3_ALLOWED)
  using experts = dsv3::expert_layout::masked;
#endif
  static constexpr dsv3::scale_layout scales = dsv3::scale_layout::token_major;
};

static_assert(dsv3::layout_policy<forgetful>);
