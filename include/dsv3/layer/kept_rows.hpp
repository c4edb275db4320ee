// SPDX-License-Identifier: MIT
// Rows that forward computes and backward reads again: as they are, or in fewer bytes.
#pragma once

#include <dsv3/layer/operand.hpp>
#include <dsv3/op/quant/stored_rows.hpp>

namespace dsv3::inline DSV3_ABI {

/// A bundle, empty where its config has no columns; that is narrow_rows_config for every precision, and says
/// nothing of the format to those that keep activations as they are. Forward writes into `buffer`, then calls
/// `keep`; backward `load`s.
template <precision P>
struct kept_rows {
  narrow_rows_config config;
  view<activation<P>, 2> values;  // [rows, columns]

  template <class Visit, class... Self>
  static void each_field(const narrow_rows_config& c, Visit&& visit, Self&... self) {
    visit("values", c.columns > 0 ? shape{c.rows, c.columns} : shape{}, self.values...);
  }

  template <class Ctx>
  view<activation<P>, 2> buffer(Ctx&) const {
    return values;
  }
  template <class Ctx>
  void keep(Ctx&, view<const activation<P>, 2>, scale_kind, const row_groups& = {}) const {}
  template <class Ctx>
  view<const activation<P>, 2> load(Ctx&, const row_groups& = {}) const {
    return values;
  }
};

template <tilewise P>
struct kept_rows<P> : narrow_rows {
  template <class Ctx>
  view<activation<P>, 2> buffer(Ctx& ctx) const {
    return ctx.scratch.template tensor<activation<P>>(config.rows, config.columns);
  }
  template <execution_context Ctx>
  void keep(Ctx& ctx, view<const activation<P>, 2> x, scale_kind scales,
            const row_groups& groups = {}) const {
    op::stored_rows<P>::store(ctx, {.x = x, .y = *this, .scales = scales, .groups = groups});
  }
  template <execution_context Ctx>
  view<const activation<P>, 2> load(Ctx& ctx, const row_groups& groups = {}) const {
    const auto y = buffer(ctx);
    op::stored_rows<P>::load(ctx, {.x = *this, .y = y, .groups = groups});
    return y;
  }
};

}  // namespace dsv3::inline DSV3_ABI
