// SPDX-License-Identifier: MIT
// The scratch stack: alignment, marks, exact exhaustion, counting.
#include <dsv3/exec/scratch.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <utility>

using dsv3::scratch_arena;
using dsv3::scratch_frame;

namespace {

struct two_config {
  dsv3::index_t count = 0;
};
struct two_vectors {
  two_config config;
  dsv3::view<float, 1> a, b;
  template <class Visit, class... Self>
  static void each_field(const two_config& c, Visit&& visit, Self&... self) {
    visit("a", dsv3::shape{c.count}, self.a...);
    visit("b", dsv3::shape{c.count}, self.b...);
  }
};

}  // namespace

TEST_CASE("what is taken is aligned, apart and inside") {
  dsv3::host_memory memory;
  scratch_arena arena{memory, 256};
  char* a = arena.take<char>(1);
  double* b = arena.take<double>(8);
  float* c = arena.take<float>(17);
  CHECK(reinterpret_cast<std::uintptr_t>(a) % 64 == 0);
  CHECK(reinterpret_cast<char*>(b) - a == 64);
  CHECK(reinterpret_cast<char*>(c) - a == 128);
  CHECK(arena.used() == 256);
  CHECK(arena.peak() == 256);
  CHECK(arena.take<float>(0) != nullptr);
  CHECK(arena.used() == 256);
}

TEST_CASE("an exhausted arena says the numbers") {
  dsv3::host_memory memory;
  scratch_arena arena{memory, 192};
  arena.take<float>(20);
  CHECK_THROWS_WITH_AS(
      arena.take<float>(17),
      "scratch: 128 bytes asked for, 64 of 192 left; measure() tells what the arena must hold", dsv3::error);
  CHECK(arena.used() == 128);
  CHECK_THROWS_WITH_AS(scratch_arena{}.take<float>(1),
                       "scratch: 64 bytes asked for, 0 of 0 left; measure() tells what the arena must hold",
                       dsv3::error);
  CHECK_THROWS_WITH_AS(arena.take<float>(-1), "scratch: -1 elements asked for", dsv3::error);
}

TEST_CASE("frames give back in order and the peak stays") {
  dsv3::host_memory memory;
  scratch_arena arena{memory, 256};
  arena.take<float>(1);
  {
    const scratch_frame outer{arena};
    float* first = arena.take<float>(1);
    {
      const scratch_frame inner{arena};
      arena.take<float>(32);
      CHECK(arena.used() == 256);
    }
    CHECK(arena.used() == 128);
    const scratch_frame again{arena};
    CHECK(arena.take<float>(1) == first + 16);
  }
  CHECK(arena.used() == 64);
  CHECK(arena.peak() == 256);
}

TEST_CASE("tensors and bundles from scratch") {
  dsv3::host_memory memory;
  scratch_arena arena{memory, 64 + 2 * 64};
  const auto x = arena.tensor<float>(2, 3);
  CHECK(x.extents() == dsv3::shape{2, 3});
  const auto bundle = arena.bundle<two_vectors>(two_config{10});
  CHECK(bundle.config.count == 10);
  CHECK(bundle.a.extent(0) == 10);
  CHECK(bundle.b.data() == bundle.a.data() + 16);
  CHECK(arena.used() == arena.capacity());
}

TEST_CASE("a counting arena counts and allocates nothing") {
  auto arena = scratch_arena::counting();
  {
    const scratch_frame frame{arena};
    arena.tensor<double>(1 << 20, 1 << 20);
    CHECK(arena.used() == std::size_t{1} << 43);
  }
  CHECK(arena.used() == 0);
  CHECK(arena.peak() == std::size_t{1} << 43);
}

TEST_CASE("an arena moves with its block and frees it once") {
  dsv3::host_memory memory;
  {
    scratch_arena arena{memory, 128};
    scratch_arena moved = std::move(arena);
    moved.take<char>(1)[0] = 1;
    CHECK(memory.in_use() == 128);
    moved = scratch_arena{memory, 64};
    CHECK(memory.in_use() == 64);
    CHECK(moved.capacity() == 64);
  }
  CHECK(memory.in_use() == 0);
}
