// SPDX-License-Identifier: MIT
// Set elements: to a constant, or to random draws.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/tensor/bundle.hpp>

namespace dsv3::inline DSV3_ABI {

namespace op {

/// constant:  y[i] = value
/// normal:    y[i] = mean + deviation · n(first + i),   n(i) the i-th standard normal of the stream
template <class Element>
struct fill {
  struct constant_args {
    static constexpr const char* name = "fill.constant";
    view<Element, 1> y;  // [n]      written
    double value = 0;
    status check() const { return requirements{name}.present("y", y).verdict(); }
    void outputs(auto&& visit) const { visit("y", y); }
  };
  struct normal_args {
    static constexpr const char* name = "fill.normal";
    view<Element, 1> y;  // [n]      written
    random_stream random;
    double mean = 0, deviation = 1;
    index_t first = 0;  // where y begins in what the stream fills: a part gets what it would get in the whole
    status check() const {
      return requirements{name}.present("y", y).that(first >= 0, "first must not be negative").verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  template <execution_context Ctx>
  static void constant(Ctx&, const constant_args&);
  template <execution_context Ctx>
  static void normal(Ctx&, const normal_args&);
};

template <class Element>
template <execution_context Ctx>
void fill<Element>::constant(Ctx& ctx, const constant_args& args) {
  invoke<fill>(ctx, args);
}
template <class Element>
template <execution_context Ctx>
void fill<Element>::normal(Ctx& ctx, const normal_args& args) {
  invoke<fill>(ctx, args);
}

}  // namespace op

/// Sets every field of a bundle to zero.
template <execution_context Ctx, class Bundle>
void zero(Ctx& ctx, Bundle& bundle) {
  for_each_field(
      [&](const std::string&, const shape&, auto& field) {
        using element = typename std::remove_reference_t<decltype(field)>::element;
        op::fill<element>::constant(ctx, {.y = field.flat(), .value = 0});
      },
      bundle);
}

}  // namespace dsv3::inline DSV3_ABI
