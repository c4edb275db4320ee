// SPDX-License-Identifier: MIT
// The mesh: every rank has one place, groups consist of whom they should, and what does not fit is refused.
#include <dsv3/comm/mesh.hpp>
#include <dsv3/comm/threads.hpp>

#include <doctest/doctest.h>

#include <set>
#include <vector>

using dsv3::any_communicator;
using dsv3::mesh;
using dsv3::mesh_place;
using dsv3::mesh_shape;

TEST_CASE("places and ranks are each other's inverse") {
  for (const mesh_shape shape : {mesh_shape{}, mesh_shape{.data = 2, .expert = 4, .pipeline = 2},
                                 mesh_shape{.data = 3, .expert = 1, .pipeline = 5},
                                 mesh_shape{.data = 2, .expert = 64, .pipeline = 16}}) {
    CAPTURE(shape.words());
    CHECK(shape.check(shape.ranks()).good());
    std::set<int> seen;
    for (int p = 0; p < shape.pipeline; ++p)
      for (int d = 0; d < shape.data; ++d)
        for (int e = 0; e < shape.expert; ++e) {
          const mesh_place place{.data = d, .expert = e, .pipeline = p};
          const int rank = shape.rank_of(place);
          CHECK(shape.place_of(rank) == place);
          seen.insert(rank);
          if (e > 0) CHECK(shape.rank_of({d, e - 1, p}) == rank - 1);  // expert ranks are neighbours
        }
    CHECK(*seen.begin() == 0);
    CHECK(*seen.rbegin() == shape.ranks() - 1);
    CHECK(static_cast<int>(seen.size()) == shape.ranks());
  }
}

// The world's numbers of a group's ranks, in the group's order.
static std::vector<std::int32_t> members(const any_communicator& group, int world_rank) {
  dsv3::cpu_context<> ctx;
  const std::int32_t mine = world_rank;
  std::vector<std::int32_t> all(static_cast<std::size_t>(group.size()));
  group.all_gather(ctx, dsv3::view<const std::int32_t, 1>{&mine, 1},
                   dsv3::view<std::int32_t, 1>{all.data(), group.size()});
  return all;
}

TEST_CASE("groups consist of whom they should") {
  const mesh_shape shape{.data = 2, .expert = 2, .pipeline = 2};
  std::vector<std::vector<std::vector<std::int32_t>>> found(8);
  dsv3::thread_ranks{8}.run([&](const any_communicator& world) {
    const mesh ranks{world, shape};
    for (const any_communicator* group : {&ranks.experts, &ranks.replicas, &ranks.dense, &ranks.stages})
      found[static_cast<std::size_t>(world.rank())].push_back(members(*group, world.rank()));
  });
  using groups = std::vector<std::vector<std::int32_t>>;
  CHECK(found[0] == groups{{0, 1}, {0, 2}, {0, 1, 2, 3}, {0, 4}});
  CHECK(found[3] == groups{{2, 3}, {1, 3}, {0, 1, 2, 3}, {3, 7}});
  CHECK(found[6] == groups{{6, 7}, {4, 6}, {4, 5, 6, 7}, {2, 6}});
}

TEST_CASE("one rank is a mesh") {
  const mesh ranks{any_communicator{}, {}};
  CHECK(ranks.place == mesh_place{});
  CHECK(ranks.experts.size() == 1);
  CHECK(ranks.stages.size() == 1);
}

TEST_CASE("what does not fit is refused") {
  CHECK(mesh_shape{.data = 2, .expert = 4, .pipeline = 2}.check(8).message() ==
        "mesh 2 x 4 x 2 (data x expert x pipeline) needs 16 ranks, there are 8");
  CHECK(mesh_shape{.data = 1 << 20, .expert = 1 << 20, .pipeline = 1 << 20}.check(8).message() ==
        "mesh 1048576 x 1048576 x 1048576 (data x expert x pipeline) needs 1152921504606846976 ranks, there "
        "are "
        "8");
  CHECK(mesh_shape{.expert = 0}.check(1).message() == "mesh: found 0 expert ranks, expected 1 to 1048576");
  CHECK(mesh_shape{.pipeline = -2}.check(1).message() ==
        "mesh: found -2 pipeline ranks, expected 1 to 1048576");
  CHECK(mesh_shape{.expert = 3}.check_experts(256).message() ==
        "mesh 1 x 3 x 1: 256 experts do not divide among 3 expert ranks");
  CHECK(mesh_shape{.expert = 8}.check_experts(256).good());
  CHECK_THROWS_WITH_AS((mesh{any_communicator{}, {.expert = 2}}),
                       "mesh 1 x 2 x 1 (data x expert x pipeline) needs 2 ranks, there are 1", dsv3::error);
}
