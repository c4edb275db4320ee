// SPDX-License-Identifier: MIT
// One rank: collectives are the identity, and what needs a second rank says so.
#include <dsv3/comm/solo.hpp>

#include <doctest/doctest.h>

using dsv3::solo;
using dsv3::view;

TEST_CASE("there is one rank") {
  CHECK(dsv3::communicator<solo>);
  CHECK_FALSE(dsv3::communicator<int>);
  CHECK(solo{}.rank() == 0);
  CHECK(solo{}.size() == 1);
}

TEST_CASE("collectives are the identity") {
  const solo comm;
  dsv3::cpu_context<> ctx;
  float x[] = {1, 2, 3}, y[] = {0, 0, 0};
  const view<float, 1> data{x, 3}, to{y, 3};
  const view<const float, 1> from = data;
  comm.all_reduce(ctx, data, dsv3::reduction::max);
  comm.broadcast(ctx, data, 0);
  CHECK(x[1] == 2);
  comm.reduce_scatter(ctx, from, to, dsv3::reduction::sum);
  CHECK(y[2] == 3);
  y[2] = 0;
  comm.all_gather(ctx, from, to);
  CHECK(y[2] == 3);
  y[2] = 0;
  comm.all_to_all(ctx, from, to);
  CHECK(y[2] == 3);
  comm.all_to_all(ctx, from, data);  // in place
  CHECK(x[0] == 1);
}

TEST_CASE("what cannot be is refused") {
  const solo comm;
  dsv3::cpu_context<> ctx;
  float x[] = {1, 2, 3};
  const view<float, 1> data{x, 3};
  const view<const float, 1> from = data;
  CHECK_THROWS_WITH_AS(comm.all_gather(ctx, from, view{x, 2}), "solo: all_gather from 3 to 2 elements",
                       dsv3::error);
  CHECK_THROWS_WITH_AS(comm.broadcast(ctx, data, 1), "solo: broadcast names rank 1, there is one rank",
                       dsv3::error);
  CHECK_THROWS_WITH_AS(comm.send(ctx, from, 1), "solo: send needs another rank, there is one", dsv3::error);
  CHECK_THROWS_WITH_AS(comm.receive(ctx, data, 1), "solo: receive needs another rank, there is one",
                       dsv3::error);
}
