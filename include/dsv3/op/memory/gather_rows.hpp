// SPDX-License-Identifier: MIT
// Rows of a matrix, picked by number.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::op {

/// y[i] = x[rows[i]]. A row that x does not have raises.
template <class T>
struct gather_rows {
  struct forward_args {
    static constexpr const char* name = "gather_rows";
    view<const T, 2> x;                // [source rows, columns]
    view<const std::int32_t, 1> rows;  // [picked]
    view<T, 2> y;                      // [picked, columns]     written; not part of x
    status check() const {
      return requirements{name}
          .equal("y", "rows", y.extent(0), "rows", rows.extent(0))
          .equal("y", "columns", y.extent(1), "x", x.extent(1))
          .present("rows", rows)
          .present("x", x)
          .present("y", y)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
};

template <class T>
template <execution_context Ctx>
void gather_rows<T>::forward(Ctx& ctx, const forward_args& args) {
  invoke<gather_rows>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
