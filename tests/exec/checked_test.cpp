// SPDX-License-Identifier: MIT
// checked: errors that come late are raised by the operation that caused them. The device here is a list: an
// operation leaves sentences there, and waiting raises the first of them, as a GPU's stream does.
#include <dsv3/exec/checked.hpp>
#include <dsv3/exec/measure.hpp>
#include <dsv3/exec/trace.hpp>

#include "toy.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using dsv3::index_t;
using dsv3::view;
namespace backend = dsv3::backend;

namespace {

struct late {
  using parent = toy::host;
};

std::vector<std::string>& pending() {
  static std::vector<std::string> sentences;
  return sentences;
}

template <class Backend = late>
struct late_context {
  using backend_type = Backend;
  dsv3::scratch_arena scratch = {};
  dsv3::backend_state<Backend> state = {};
  int waits = 0;

  template <class Other>
  late_context<Other> with_backend() const {
    return {};
  }
};

template <class Backend>
void synchronize(late_context<Backend>& ctx) {
  ++ctx.waits;
  if (pending().empty()) return;
  const std::string first = pending().front();
  pending().clear();
  dsv3::raise(first);
}

}  // namespace

/// Breaks down later when its input is empty.
template <>
struct dsv3::implementation<toy::negate, late> : dsv3::implementation<toy::negate, toy::host> {
  template <class Ctx>
  static void run(Ctx& ctx, const toy::negate::forward_args& args) {
    implementation<toy::negate, toy::host>::run(ctx, args);
    if (args.x.extent(0) == 0) pending().push_back("work on the device: illegal address");
    if (args.x.extent(0) == 1) pending().push_back("negate.forward: x[0] is 7, expected less");
    if (args.x.extent(0) == 2) dsv3::raise("negate.forward: the device refuses");
  }
};

namespace {

template <class Ctx>
std::string answer(Ctx& ctx, index_t n) {
  double x[3] = {1, 2, 3}, y[3] = {};
  return dsv3::attempt([&] { toy::negate::forward(ctx, {.x = view{x, n}, .y = view{y, n}}); }).message();
}

}  // namespace

TEST_CASE("unchecked, a late error is raised by whoever waits next") {
  late_context<> ctx;
  CHECK(answer(ctx, 0) == "");
  CHECK(answer(ctx, 3) == "");
  CHECK(dsv3::attempt([&] { synchronize(ctx); }).message() == "work on the device: illegal address");
}

TEST_CASE("checked, the operation that caused it raises it, with its name once") {
  late_context<backend::checked<late>> ctx;
  CHECK(answer(ctx, 3) == "");
  CHECK(ctx.waits == 2);
  CHECK(answer(ctx, 0) == "negate.forward: work on the device: illegal address");
  CHECK(answer(ctx, 1) == "negate.forward: x[0] is 7, expected less");
  CHECK(answer(ctx, 2) == "negate.forward: the device refuses");
  CHECK(answer(ctx, 3) == "");
}

TEST_CASE("checked, an error from before is not the operation's") {
  late_context<backend::checked<late>> ctx;
  pending().push_back("work on the device: a copy went wrong");
  CHECK(answer(ctx, 3) == "before negate.forward: work on the device: a copy went wrong");
  CHECK(answer(ctx, 3) == "");
}

TEST_CASE("checked changes no numbers and no scratch, and stacks with trace") {
  dsv3::host_memory memory;  // outlives the scratch of all contexts
  const double x[] = {1, 2, 3};
  double y[] = {1, 1, 1};
  const auto work = [&](auto& ctx) { toy::accumulate::forward(ctx, {.x = view{x, 3}, .y = view{y, 3}}); };
  const std::size_t bytes = dsv3::measure(dsv3::cpu_context<toy::host>{}, work);
  dsv3::cpu_context<backend::checked<toy::host>> plain;
  CHECK(dsv3::measure(plain, work) == bytes);
  plain.scratch = dsv3::scratch_arena{memory, bytes};
  work(plain);
  CHECK(y[2] == 4);

  dsv3::trace_log log;
  dsv3::cpu_context<backend::trace<backend::checked<toy::host>>> stacked{.state = {&log}};
  CHECK(dsv3::measure(stacked, work) == bytes);
  stacked.scratch = dsv3::scratch_arena{memory, bytes};
  work(stacked);
  CHECK(y[2] == 7);
  REQUIRE(log.entries.size() == 1);
  CHECK(std::string(log.entries[0].name) == "accumulate.forward");
}
