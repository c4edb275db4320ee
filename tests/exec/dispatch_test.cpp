// SPDX-License-Identifier: MIT
// How an operation finds its body: own, inherited, or none; and what invoke does around it.
#include "toy.hpp"

#include <doctest/doctest.h>

#include <string>
#include <type_traits>

using dsv3::cpu_context;
using dsv3::nearest;
using dsv3::view;

TEST_CASE("lookup walks from a backend to its parents") {
  using of_host = dsv3::implementation<toy::negate, toy::host>;
  using of_child = dsv3::implementation<toy::accumulate, toy::child>;
  CHECK(std::is_same_v<nearest<toy::negate, toy::host>::type, of_host>);
  CHECK(std::is_same_v<nearest<toy::negate, toy::child>::type, of_host>);
  CHECK(std::is_same_v<nearest<toy::negate, toy::grandchild>::type, of_host>);
  CHECK(std::is_same_v<nearest<toy::accumulate, toy::child>::type, of_child>);
  CHECK(std::is_same_v<nearest<toy::accumulate, toy::grandchild>::type, of_child>);
  CHECK(std::is_void_v<nearest<toy::negate, toy::stranger>::type>);
}

TEST_CASE("contexts of different backends live side by side") {
  const double x[] = {1, 2, 3, 4};
  double with_host[] = {0, 0, 0, 0}, with_child[] = {0, 0, 0, 0};
  dsv3::host_memory memory;
  cpu_context<toy::host> first{.scratch = dsv3::scratch_arena{memory, 256}};
  cpu_context<toy::grandchild> second{.scratch = dsv3::scratch_arena{memory, 256}};
  toy::accumulate::forward(first, {.x = view{x, 4}, .y = view{with_host, 4}, .factor = 2});
  toy::accumulate::forward(second, {.x = view{x, 4}, .y = view{with_child, 4}, .factor = 2});
  CHECK(with_host[3] == 8);
  CHECK(with_child[3] == 8.5);
  CHECK(with_child[2] == 6);
}

TEST_CASE("a bad record is refused before anything runs") {
  const double x[] = {1, 2, 3};
  double y[] = {7, 7};
  cpu_context<toy::host> ctx;
  const toy::accumulate::forward_args args{.x = view{x, 3}, .y = view{y, 2}};
  CHECK(args.check().message() == "accumulate.forward: y has 2 elements, x has 3");
  CHECK_THROWS_WITH_AS(toy::accumulate::forward(ctx, args), "accumulate.forward: y has 2 elements, x has 3",
                       dsv3::error);
  CHECK(y[0] == 7);
}

TEST_CASE("scratch is released when the operation ends, and when it fails") {
  const double x[] = {1, 2, 3};
  double y[] = {0, 0, 0};
  dsv3::host_memory memory;
  cpu_context<toy::host> ctx{.scratch = dsv3::scratch_arena{memory, 64}};  // one line too few
  CHECK_THROWS_WITH_AS(toy::accumulate::forward(ctx, {.x = view{x, 3}, .y = view{y, 3}}),
                       "scratch: 64 bytes asked for, 0 of 64 left; measure() tells what the arena must hold",
                       dsv3::error);
  CHECK(ctx.scratch.used() == 0);
  ctx.scratch = dsv3::scratch_arena{memory, 128};
  toy::accumulate::forward(ctx, {.x = view{x, 3}, .y = view{y, 3}});
  CHECK(ctx.scratch.used() == 0);
  CHECK(ctx.scratch.peak() == 128);
  CHECK(y[2] == 3);
}

TEST_CASE("a context made for another backend keeps its threads and has no scratch") {
  dsv3::host_memory memory;
  const cpu_context<toy::host> ctx{.threads = 5, .scratch = dsv3::scratch_arena{memory, 64}};
  const auto other = ctx.with_backend<toy::child>();
  CHECK(other.threads == 5);
  CHECK(other.scratch.capacity() == 0);
  CHECK(dsv3::execution_context<cpu_context<toy::child>>);
  CHECK_FALSE(dsv3::execution_context<int>);
}
