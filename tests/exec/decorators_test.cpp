// SPDX-License-Identifier: MIT
// measure, trace and verify: backends around backends.
#include <dsv3/exec/measure.hpp>
#include <dsv3/exec/trace.hpp>
#include <dsv3/exec/verify.hpp>

#include "toy.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

using dsv3::cpu_context;
using dsv3::view;
namespace backend = dsv3::backend;

namespace {

// A composition: an outer buffer that lives across two operations.
template <class Ctx>
void negated_sum(Ctx& ctx, view<const double, 1> x, view<double, 1> y) {
  const dsv3::scratch_frame frame{ctx.scratch};
  const auto negated = ctx.scratch.template tensor<double>(x.extent(0));
  toy::negate::forward(ctx, {.x = x, .y = negated});
  toy::accumulate::forward(ctx, {.x = negated, .y = y, .factor = 3});
}

}  // namespace

TEST_CASE("measure finds exactly the peak of a composition and computes nothing") {
  for (const dsv3::index_t n : {0, 1, 8, 9, 100}) {
    std::vector<double> x(static_cast<std::size_t>(n), 2.0), y(static_cast<std::size_t>(n), 1.0);
    const auto work = [&](auto& ctx) { negated_sum(ctx, view{x.data(), n}, view{y.data(), n}); };
    dsv3::host_memory memory;
    cpu_context<toy::host> ctx;
    const std::size_t bytes = dsv3::measure(ctx, work);
    CHECK(y == std::vector<double>(static_cast<std::size_t>(n), 1.0));

    ctx.scratch = dsv3::scratch_arena{memory, bytes};
    work(ctx);
    CHECK(ctx.scratch.peak() == bytes);
    for (const double value : y) CHECK(value == -5);
    if (bytes > 0) {
      ctx.scratch = dsv3::scratch_arena{memory, bytes - 64};
      CHECK_THROWS_AS(work(ctx), dsv3::error);
    }
  }
}

TEST_CASE("measure checks records as the real run does") {
  const double x[] = {1, 2};
  double y[] = {1};
  const cpu_context<toy::host> ctx;
  CHECK_THROWS_WITH_AS(dsv3::measure(ctx,
                                     [&](auto& probe) {
                                       toy::accumulate::forward(probe, {.x = view{x, 2}, .y = view{y, 1}});
                                     }),
                       "accumulate.forward: y has 1 elements, x has 2", dsv3::error);
}

TEST_CASE("measure goes around a user's backend and around trace") {
  const double x[] = {1, 2, 3, 4, 5};
  double y[5] = {};
  const auto work = [&](auto& ctx) { negated_sum(ctx, view{x, 5}, view{y, 5}); };
  const std::size_t plain = dsv3::measure(cpu_context<toy::host>{}, work);
  CHECK(plain == 3 * 64);
  CHECK(dsv3::measure(cpu_context<toy::grandchild>{}, work) == plain);
  CHECK(dsv3::measure(cpu_context<backend::trace<toy::host>>{}, work) == plain);
}

TEST_CASE("trace names and times operations in the order they ran") {
  const double x[] = {1, 2, 3};
  double y[] = {0, 0, 0};
  dsv3::trace_log log;
  dsv3::host_memory memory;
  cpu_context<backend::trace<toy::host>> ctx{.scratch = dsv3::scratch_arena{memory, 256}, .state = {&log}};
  negated_sum(ctx, view{x, 3}, view{y, 3});
  CHECK(y[2] == -9);
  REQUIRE(log.entries.size() == 2);
  CHECK(std::string(log.entries[0].name) == "negate.forward");
  CHECK(std::string(log.entries[1].name) == "accumulate.forward");
  CHECK(log.entries[0].seconds >= 0);
}

TEST_CASE("verify finds a planted difference and names it") {
  const double x[] = {1, 2, 3, 4, 5};
  double y[] = {10, 10, 10, 10, 10};
  dsv3::verify_log log;
  dsv3::host_memory memory;
  cpu_context<backend::verify<toy::child, toy::host>> ctx;
  const auto work = [&](auto& any) { toy::accumulate::forward(any, {.x = view{x, 5}, .y = view{y, 5}}); };
  const std::size_t bytes = dsv3::measure(ctx, work);
  CHECK(bytes == 4 * 64);  // both bodies' scratch
  ctx.scratch = dsv3::scratch_arena{memory, bytes};
  ctx.state.log = &log;
  work(ctx);
  REQUIRE(log.differences.size() == 1);
  CHECK(log.differences[0] == "accumulate.forward: y element 3 is 14.5, the reference has 14");
  CHECK(y[0] == 11);    // added to once
  CHECK(y[3] == 14.5);  // the backend's result stays
}

TEST_CASE("verify is silent where results agree, and within the tolerance") {
  const double x[] = {1, 2, 3, 4, 5};
  double y[] = {0, 0, 0, 0, 0};
  dsv3::verify_log log;
  dsv3::host_memory memory;
  cpu_context<backend::verify<toy::child, toy::host>> ctx{.scratch = dsv3::scratch_arena{memory, 256},
                                                          .state = {&log}};
  toy::negate::forward(ctx, {.x = view{x, 5}, .y = view{y, 5}});
  CHECK(log.differences.empty());
  log.tolerance = 0.5 / 5;  // the planted half, of the largest result
  double sum[] = {0, 0, 0, 0, 0};
  toy::accumulate::forward(ctx, {.x = view{x, 5}, .y = view{sum, 5}});
  CHECK(log.differences.empty());
}

TEST_CASE("verify is not blinded by an infinity, and treats NaN as equal to NaN") {
  const double infinity = std::numeric_limits<double>::infinity();
  const double x[] = {infinity, std::nan(""), 3, 4, 5};
  double y[] = {0, 0, 0, 0, 0};
  dsv3::verify_log log;
  dsv3::host_memory memory;
  cpu_context<backend::verify<toy::child, toy::host>> ctx{.scratch = dsv3::scratch_arena{memory, 256},
                                                          .state = {&log}};
  toy::accumulate::forward(ctx, {.x = view{x, 5}, .y = view{y, 5}});
  REQUIRE(log.differences.size() == 1);
  CHECK(log.differences[0] == "accumulate.forward: y element 3 is 4.5, the reference has 4");
}

TEST_CASE("decorators stack: a trace around a verification logs and compares") {
  const double x[] = {1, 2, 3};
  double y[] = {0, 0, 0};
  dsv3::trace_log times;
  dsv3::verify_log differences;
  dsv3::host_memory memory;
  cpu_context<backend::trace<backend::verify<toy::child, toy::host>>> ctx{
      .scratch = dsv3::scratch_arena{memory, 4096}, .state = {.log = &times, .inner = {.log = &differences}}};
  negated_sum(ctx, view{x, 3}, view{y, 3});
  CHECK(times.entries.size() == 2);
  CHECK(y[2] == -9);
}
