// SPDX-License-Identifier: MIT
// A linear layer: one weight, one product in the precision's operand format, and its two gradients.
#pragma once

#include <dsv3/op/linear/gemm.hpp>

namespace dsv3::inline DSV3_ABI {

/// Layers call their products here, so that a precision whose operands are scaled tiles changes one place.
///   y [tokens, out] = x [tokens, in] · w [out, in]ᵀ
template <precision P>
struct linear {
  using rows = view<activation<P>, 2>;
  using const_rows = view<const activation<P>, 2>;
  using weights = view<const weight<P>, 2>;

  template <execution_context Ctx>
  static void forward(Ctx& ctx, const_rows x, weights w, rows y) {
    op::gemm<P>::forward(ctx, {.x = x, .w = w, .y = y});
  }
  template <execution_context Ctx>
  static void backward_data(Ctx& ctx, const_rows dy, weights w, rows dx, store into = store::write) {
    op::gemm<P>::backward_data(ctx, {.dy = dy, .w = w, .dx = dx, .into = into});
  }
  template <execution_context Ctx>
  static void backward_weights(Ctx& ctx, const_rows dy, const_rows x, view<gradient<P>, 2> dw) {
    op::gemm<P>::backward_weights(ctx, {.dy = dy, .x = x, .dw = dw});
  }
};

}  // namespace dsv3::inline DSV3_ABI
