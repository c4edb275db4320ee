// SPDX-License-Identifier: MIT
// What docs/distributed.md shows, run by ranks of one process.
#include <dsv3/comm/handshake.hpp>
#include <dsv3/comm/mesh.hpp>
#include <dsv3/comm/rendezvous.hpp>
#include <dsv3/comm/threads.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

// One rank's work, whatever carries its data.
static std::vector<float> summed(const dsv3::any_communicator& world, const std::string& config) {
  const dsv3::mesh_shape shape{.data = 2, .expert = 2, .pipeline = 1};
  dsv3::handshake(world, {{"config", config}}, shape);
  const dsv3::mesh ranks{world, shape};

  dsv3::cpu_context<> ctx;
  std::vector<float> gradient(1000, 1.0f);
  for (int step = 0; step < 3; ++step) {
    const dsv3::comm_scope here{world.journal(), {.step = step}};
    ranks.dense.all_reduce(ctx, dsv3::view{gradient.data(), 1000}, dsv3::reduction::sum);
  }
  return gradient;
}

TEST_CASE("ranks as threads") {
  dsv3::thread_ranks{4}.run([&](const dsv3::any_communicator& world) {
    const std::vector<float> gradient = summed(world, "hidden 64");
    if (gradient[999] != 64) dsv3::raise("a sum is wrong");
  });
}

TEST_CASE("a rank that was started by hand") {
  const dsv3::launch by = dsv3::read_launch();
  dsv3::tcp_rendezvous place(by);
  CHECK(dsv3::compare_beliefs(place.all(dsv3::pack_beliefs({{"config", "hidden 64"}}))).good());
}
