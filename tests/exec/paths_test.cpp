// SPDX-License-Identifier: MIT
// Which bodies some work gets, as measure finds out.
#include <dsv3/exec/measure.hpp>
#include <dsv3/exec/trace.hpp>

#include "toy.hpp"

#include <doctest/doctest.h>

#include <vector>

using dsv3::cpu_context;
using dsv3::view;

namespace {

struct named {
  using parent = toy::host;
  static constexpr const char* path = "own";
};
struct choosing {
  using parent = named;
  static constexpr const char* path = "chosen";
};

}  // namespace

template <>
struct dsv3::implementation<toy::negate, named> : dsv3::implementation<toy::negate, toy::host> {};

template <>
struct dsv3::implementation<toy::negate, choosing> : dsv3::implementation<toy::negate, named> {
  static const char* path(const toy::negate::forward_args& args) {
    return args.x.extent(0) > 2 ? choosing::path : named::path;
  }
};

namespace {

template <class Backend>
std::string line_of(const std::vector<dsv3::index_t>& extents) {
  std::vector<double> x(8), y(8);
  dsv3::path_list paths;
  const auto work = [&](auto& ctx) {
    for (const dsv3::index_t n : extents) {
      toy::accumulate::forward(ctx, {.x = view{x.data(), n}, .y = view{y.data(), n}});
      toy::negate::forward(ctx, {.x = view{x.data(), n}, .y = view{y.data(), n}});
    }
  };
  dsv3::measure(cpu_context<Backend>{}, work, &paths);
  return paths.line();
}

}  // namespace

TEST_CASE("the path of an operation is that of the backend where its body was found") {
  CHECK(line_of<named>({1}) == "a backend without a name: accumulate; own: negate");
  CHECK(line_of<toy::host>({1, 2}) == "a backend without a name: accumulate, negate");
  CHECK(line_of<named>({}).empty());
}

TEST_CASE("a body that chooses by the record tells what it chose") {
  CHECK(line_of<choosing>({1}) == "a backend without a name: accumulate; own: negate");
  CHECK(line_of<choosing>({3}) == "a backend without a name: accumulate; chosen: negate");
  CHECK(line_of<choosing>({1, 3}) ==
        "a backend without a name: accumulate; own: negate.forward; chosen: negate.forward");
}

TEST_CASE("decorators pass on what the decorated body says") {
  CHECK(line_of<dsv3::backend::trace<choosing>>({3}) == line_of<choosing>({3}));
}
