// SPDX-License-Identifier: MIT
// What backends around one other backend share: the scratch of a body stays the body's.
#pragma once

#include <dsv3/exec/paths.hpp>

namespace dsv3::inline DSV3_ABI::detail {

/// The base of a body that does something before and after the body of B.
template <class Op, class B>
struct decorated {
  using body = typename nearest<Op, B>::type;

  template <class Ctx, class Args>
    requires requires(const Ctx& ctx, scratch_arena& arena, const Args& args) {
      body::scratch(ctx, arena, args);
    }
  static auto scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    return body::scratch(ctx, arena, args);
  }
  template <class Args>
  static const char* path(const Args& args) {
    return path_of<Op, B>(args);
  }
};

}  // namespace dsv3::inline DSV3_ABI::detail
