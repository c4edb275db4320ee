// SPDX-License-Identifier: MIT
#include <dsv3/cpu/host/parallel.hpp>

#include <dsv3/base/error.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace dsv3;

namespace {

constexpr int thread_counts[] = {-1, 0, 1, 2, 3, 8};
constexpr index_t part_counts[] = {0, 1, 2, 7, 100};

/// Ranges that parallel_ranges made, in ascending order.
std::vector<index_range> ranges(int threads, index_t count, index_t grain) {
  std::vector<index_range> result;
  std::atomic<int> lock = 0;
  cpu::parallel_ranges(threads, count, grain, [&](index_t begin, index_t end) {
    while (lock.exchange(1) != 0) std::this_thread::yield();
    result.push_back({begin, end});
    lock = 0;
  });
  std::sort(result.begin(), result.end(), [](index_range a, index_range b) { return a.begin < b.begin; });
  return result;
}

}  // namespace

TEST_CASE("parallel_parts runs every part once") {
  for (const int threads : thread_counts)
    for (const index_t parts : part_counts) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(parts));
      cpu::parallel_parts(threads, parts, [&](index_t p) { ++runs[static_cast<std::size_t>(p)]; });
      for (const auto& count : runs) CHECK(count == 1);
    }
}

TEST_CASE("parallel_slots gives a slot to one part at a time") {
  for (const int threads : thread_counts) {
    CAPTURE(threads);
    std::vector<std::atomic<int>> busy(static_cast<std::size_t>(std::max(threads, 1)));
    std::atomic<int> clashes = 0, strays = 0, runs = 0;
    cpu::parallel_slots(threads, 50, [&](index_t slot, index_t) {
      ++runs;
      if (slot < 0 || slot >= std::max(threads, 1)) {
        ++strays;
        return;
      }
      auto& mine = busy[static_cast<std::size_t>(slot)];
      clashes += mine.exchange(1) != 0;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      mine = 0;
    });
    CHECK(runs == 50);
    CHECK(strays == 0);
    CHECK(clashes == 0);
  }
}

#if DSV3_OPENMP
TEST_CASE("parallel_slots uses the threads it is given") {
  std::atomic<int> inside = 0;
  std::atomic<bool> met = false;
  cpu::parallel_slots(2, 2, [&](index_t, index_t) {
    ++inside;  // each part waits for the other: one thread alone would not meet itself
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (inside < 2 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    if (inside == 2) met = true;
  });
  CHECK(met);
}
#endif

TEST_CASE("parallel_ranges covers everything once, evenly, and no thread gets less than the grain") {
  for (const int threads : thread_counts)
    for (const index_t count : {0, 1, 2, 5, 64, 1000, 1001})
      for (const index_t grain : {0, 1, 3, 100, 5000}) {
        CAPTURE(threads);
        CAPTURE(count);
        CAPTURE(grain);
        const std::vector<index_range> found = ranges(threads, count, grain);
        index_t reached = 0, shortest = count, longest = 0;
        for (const index_range range : found) {
          CHECK(range.begin == reached);
          CHECK(range.end > range.begin);
          reached = range.end;
          shortest = std::min(shortest, range.count()), longest = std::max(longest, range.count());
        }
        CHECK(reached == count);
        CHECK(found.size() <= static_cast<std::size_t>(std::max(threads, 1)));
        if (found.size() > 1) {
          CHECK(longest - shortest <= 1);
          CHECK(shortest >= grain);
        }
        if (threads > 1 && grain <= 1 && count >= threads)
          CHECK(found.size() == static_cast<std::size_t>(threads));
      }
}

TEST_CASE("parallel_ranges splits the same way each time, far beyond 32 bits too") {
  constexpr index_t count = (index_t{1} << 40) + 3;
  const std::vector<index_range> once = ranges(3, count, 1), again = ranges(3, count, 1);
  REQUIRE(once.size() == 3);
  REQUIRE(again.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(once[i].begin == again[i].begin);
    CHECK(once[i].end == again[i].end);
  }
  CHECK(once[2].end == count);
}

TEST_CASE("what is computed by parts does not depend on the threads") {
  const auto sum = [](int threads) {
    std::vector<float> partial(64);
    cpu::parallel_parts(threads, 64, [&](index_t p) {
      for (int i = 1; i < 1000; ++i)
        partial[static_cast<std::size_t>(p)] += 1.0f / static_cast<float>(i + 7 * p);
    });
    float total = 0;
    for (const float part : partial) total += part;
    return total;
  };
  for (const int threads : thread_counts) CHECK(sum(threads) == sum(1));
}

#if !defined(DSV3_NO_EXCEPTIONS)
TEST_CASE("an exception in a part reaches the caller with its sentence") {
  for (const int threads : thread_counts)
    for (const index_t bad : {0, 1, 49}) {
      CAPTURE(threads);
      std::string sentence;
      try {
        cpu::parallel_parts(threads, 50, [&](index_t p) {
          if (p == bad) raise("part " + std::to_string(p) + " is bad");
        });
      } catch (const error& failure) {
        sentence = failure.what();
      }
      CHECK(sentence == "part " + std::to_string(bad) + " is bad");
    }
}

TEST_CASE("any type of exception passes, one of many is enough, and the next region is unharmed") {
  for (const int threads : {1, 2, 3}) {
    CHECK_THROWS_AS(cpu::parallel_parts(threads, 9, [](index_t) { throw 7; }), int);
    CHECK_THROWS_AS(
        cpu::parallel_ranges(threads, 9, 1, [](index_t, index_t) { throw std::logic_error("x"); }),
        std::logic_error);
    std::atomic<int> runs = 0;
    cpu::parallel_parts(threads, 9, [&](index_t) { ++runs; });
    CHECK(runs == 9);
  }
}

TEST_CASE("no part is still at work when the exception arrives") {
  std::atomic<int> begun = 0, ended = 0;
  const auto work = [&](index_t p) {
    ++begun;
    if (p == 0) raise("bad");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ++ended;
  };
  CHECK_THROWS_AS(cpu::parallel_parts(2, 20, work), error);
  CHECK(begun == ended + 1);
}

TEST_CASE("a region inside a part works and passes its exceptions on") {
  std::atomic<int> runs = 0;
  cpu::parallel_parts(2, 4, [&](index_t) { cpu::parallel_parts(2, 5, [&](index_t) { ++runs; }); });
  CHECK(runs == 20);
  const auto nested = [&](index_t p) {
    cpu::parallel_parts(2, 5, [&](index_t q) {
      if (p == 3 && q == 4) raise("inner");
    });
  };
  CHECK_THROWS_WITH_AS(cpu::parallel_parts(2, 4, nested), "inner", error);
}
#endif
