// SPDX-License-Identifier: MIT
// Copy elements, converting between number formats.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/tensor/bundle.hpp>

namespace dsv3::inline DSV3_ABI {

namespace op {

/// y[i] = To(x[i]), rounded to nearest even where To is narrower.
template <class From, class To>
struct copy {
  struct forward_args {
    static constexpr const char* name = "copy";
    view<const From, 2> x;  // [rows, columns]
    view<To, 2> y;          // [rows, columns]     written
    status check() const {
      return requirements{name}
          .equal("y", "rows", y.extent(0), "x", x.extent(0))
          .equal("y", "columns", y.extent(1), "x", x.extent(1))
          .present("x", x)
          .present("y", y)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
};

template <class From, class To>
template <execution_context Ctx>
void copy<From, To>::forward(Ctx& ctx, const forward_args& args) {
  invoke<copy>(ctx, args);
}

}  // namespace op

/// Copies every field of a bundle into the same field of another, converting.
template <execution_context Ctx, class From, class To>
void copy(Ctx& ctx, From& from, To& to) {
  for_each_field(
      [&](const std::string&, const shape& s, auto& x, auto& y) {
        using from_element = std::remove_const_t<typename std::remove_reference_t<decltype(x)>::element>;
        using to_element = typename std::remove_reference_t<decltype(y)>::element;
        const index_t n = s.elements();
        op::copy<from_element, to_element>::forward(
            ctx, {.x = view{x.data(), index_t{1}, n}, .y = view{y.data(), index_t{1}, n}});
      },
      from, to);
}

}  // namespace dsv3::inline DSV3_ABI
