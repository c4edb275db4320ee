// SPDX-License-Identifier: MIT
#include <dsv3/exec/random.hpp>
#include <dsv3/infer/page_pool.hpp>

#include <support/run.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <vector>

using namespace dsv3;

TEST_CASE("pages come in order at first, then the one released last") {
  page_pool pool(4);
  CHECK((pool.pages() == 4 && pool.free_pages() == 4));
  for (std::int32_t page = 0; page < 3; ++page) CHECK(pool.allocate() == page);
  CHECK(pool.free_pages() == 1);
  pool.release(1), pool.release(0);
  CHECK(pool.allocate() == 0);
  CHECK(pool.allocate() == 1);
  CHECK(pool.allocate() == 3);
  CHECK(pool.free_pages() == 0);
}

TEST_CASE("a shared page is free when its last holder leaves") {
  page_pool pool(2);
  const std::int32_t page = pool.allocate();
  CHECK(pool.references(page) == 1);
  pool.share(page), pool.share(page);
  CHECK(pool.references(page) == 3);
  pool.release(page), pool.release(page);
  CHECK((pool.references(page) == 1 && pool.free_pages() == 1));
  pool.release(page);
  CHECK((pool.references(page) == 0 && pool.free_pages() == 2));
  CHECK(pool.references(1) == 0);
}

TEST_CASE("what cannot be had or given back is refused with a sentence") {
  page_pool pool(128);
  for (int i = 0; i < 125; ++i) pool.allocate();
  CHECK(pool.can_take(0).good());
  CHECK(pool.can_take(3).good());
  CHECK(pool.can_take(5).message() ==
        "latent cache: 5 more pages needed, 3 of 128 are free; give it more tokens or fewer sequences");
  for (int i = 0; i < 3; ++i) pool.allocate();
  CHECK(support::raised([&] { pool.allocate(); }) ==
        "latent cache: 1 more page needed, 0 of 128 are free; give it more tokens or fewer sequences");
  CHECK(pool.free_pages() == 0);

  pool.release(7);
  CHECK(support::raised([&] { pool.release(7); }) ==
        "page_pool.release: page 7 is free, expected one that is held");
  CHECK(support::raised([&] { pool.share(7); }) ==
        "page_pool.share: page 7 is free, expected one that is held");
  CHECK(pool.free_pages() == 1);
  CHECK(support::raised([&] { pool.release(128); }) ==
        "page_pool.release: there is no page 128, expected one of 0 to 127");
  CHECK(support::raised([&] { pool.share(-1); }) ==
        "page_pool.share: there is no page -1, expected one of 0 to 127");
  CHECK(support::raised([&] { (void)pool.references(-2147483648); }) ==
        "page_pool.references: there is no page -2147483648, expected one of 0 to 127");
  page_pool none(0);
  CHECK(support::raised([&] { none.release(0); }) ==
        "page_pool.release: there is no page 0, the pool is empty");
  CHECK(support::raised([&] { none.allocate(); }).find("0 of 0 are free") != std::string::npos);
  CHECK(support::raised([] { page_pool(-1); }) == "page_pool: -1 pages asked for, expected 0 to 2147483647");
  CHECK(support::raised([] { page_pool(index_t{1} << 31); }).find("2147483648 pages") != std::string::npos);
}

TEST_CASE("ten thousand sequences join, share, grow and leave, and every page comes back") {
  constexpr index_t pages = 200;
  const random_stream random(20260101, 1);
  std::uint64_t counter = 0;
  const auto below = [&](std::size_t bound) { return std::size_t(random.below(bound, counter++)); };
  page_pool pool(pages);
  std::vector<std::vector<std::int32_t>> sequences;
  index_t joined = 0, refused = 0, shared = 0;
  while (joined < 10000 || !sequences.empty()) {
    if (joined < 10000 && below(2) == 0) {
      std::vector<std::int32_t> mine;
      if (!sequences.empty() && below(3) == 0) {  // a prefix of somebody else's
        const auto& other = sequences[below(sequences.size())];
        mine.assign(other.begin(), other.begin() + std::ptrdiff_t(below(other.size() + 1)));
        for (const std::int32_t page : mine) pool.share(page);
        shared += index_t(mine.size());
      }
      const index_t more = index_t(below(12));
      if (pool.can_take(more).good()) {
        for (index_t i = 0; i < more; ++i) mine.push_back(pool.allocate());
        sequences.push_back(mine);
        ++joined;
      } else {
        for (const std::int32_t page : mine) pool.release(page);
        ++refused;
      }
    } else if (!sequences.empty()) {
      const std::size_t leaver = below(sequences.size());
      for (const std::int32_t page : sequences[leaver]) pool.release(page);
      sequences.erase(sequences.begin() + std::ptrdiff_t(leaver));
    }
    if (counter % 64 == 0) {  // the counts are those of the sequences themselves
      std::vector<index_t> held(pages, 0);
      for (const auto& each : sequences)
        for (const std::int32_t page : each) ++held[std::size_t(page)];
      for (std::int32_t page = 0; page < pages; ++page)
        REQUIRE(pool.references(page) == held[std::size_t(page)]);
      REQUIRE(pool.free_pages() == std::count(held.begin(), held.end(), index_t{0}));
    }
  }
  CHECK(refused > 100);
  CHECK(shared > 1000);
  CHECK(pool.free_pages() == pages);
  std::set<std::int32_t> all;
  for (index_t i = 0; i < pages; ++i) all.insert(pool.allocate());
  CHECK((all.size() == pages && *all.begin() == 0 && *all.rbegin() == pages - 1));
}
