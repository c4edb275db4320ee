// SPDX-License-Identifier: MIT
// Ranks that believe the same go on; otherwise all of them hear who differs, and in what.
#include <dsv3/comm/handshake.hpp>
#include <dsv3/comm/threads.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using dsv3::any_communicator;
using dsv3::rank_beliefs;

// What each of the ranks hears.
template <class Beliefs>
static std::vector<std::string> heard(int ranks, Beliefs&& beliefs) {
  std::vector<std::string> sentences(static_cast<std::size_t>(ranks));
  dsv3::thread_ranks{ranks}.run([&](const any_communicator& comm) {
    const auto [mine, shape] = beliefs(comm.rank());
    sentences[static_cast<std::size_t>(comm.rank())] =
        dsv3::attempt([&] { dsv3::handshake(comm, mine, shape); }).message();
  });
  return sentences;
}
using said = std::pair<rank_beliefs, dsv3::mesh_shape>;

TEST_CASE("who believes the same goes on") {
  for (const int ranks : {1, 2, 5})
    for (const std::string& sentence : heard(ranks, [](int) {
           return said{{{"config", "hidden 64\nlayers 2"}, {"seed", "1"}}, {}};
         }))
      CHECK(sentence.empty());
}

TEST_CASE("all hear of the first rank that differs") {
  for (const std::string& sentence : heard(4, [](int rank) {
         return said{{{"seed", rank >= 2 ? "8" : "7"}, {"lr", "1e-4"}}, {}};
       }))
    CHECK(sentence == "handshake: rank 2 has seed '8', rank 0 '7'");
  for (const std::string& sentence : heard(2, [](int rank) {
         return said{{}, {.data = rank == 0 ? 2 : 1, .expert = rank == 0 ? 1 : 2}};
       }))
    CHECK(sentence == "handshake: rank 1 has mesh '1 x 2 x 1', rank 0 '2 x 1 x 1'");
  for (const std::string& sentence : heard(2, [](int rank) {
         return said{{{"config", "hidden 64\nlayers " + std::to_string(rank)}}, {}};
       }))
    CHECK(sentence == "handshake: rank 1 has config digest " + dsv3::digest("hidden 64\nlayers 1") +
                          ", rank 0 digest " + dsv3::digest("hidden 64\nlayers 0"));
}

TEST_CASE("versions and fields that only some have") {
  const auto of = [](const rank_beliefs& beliefs) { return dsv3::detail::pack(beliefs); };
  CHECK(dsv3::compare_beliefs({of({{"library version", "0.1.0"}}), of({{"library version", "0.2.0"}})})
            .message() == "handshake: rank 1 has library version '0.2.0', rank 0 '0.1.0'");
  CHECK(dsv3::compare_beliefs({of({{"a", "1"}}), of({{"a", "1"}}), of({{"a", "1"}, {"b", "2"}})}).message() ==
        "handshake: rank 2 has b '2', rank 0 has none");
  CHECK(dsv3::compare_beliefs({of({{"a", "1"}, {"b", "2"}}), of({{"a", "1"}})}).message() ==
        "handshake: rank 1 has no b, rank 0 has");
  CHECK(dsv3::compare_beliefs({of({{"a", ""}}), of({{"a", "\n3\nxyz"}})}).message() ==
        "handshake: rank 1 has a digest " + dsv3::digest("\n3\nxyz") + ", rank 0 ''");
  CHECK(dsv3::compare_beliefs({}).good());
  CHECK(dsv3::pack_beliefs({}).find("library version\n5\n0.1.0") == 0);
}

TEST_CASE("digests differ where texts do") {
  CHECK(dsv3::digest("") == "cbf29ce484222325");
  CHECK(dsv3::digest("a") == "af63dc4c8601ec8c");  // published vectors of FNV-1a
  CHECK(dsv3::digest("foobar") == "85944171f73967e8");
}
