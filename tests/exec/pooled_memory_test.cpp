// SPDX-License-Identifier: MIT
#include <dsv3/exec/pooled_memory.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <set>

using namespace dsv3;

TEST_CASE("what was given back is given out again only after settle") {
  host_memory source;
  pooled_memory pool{source};
  std::set<void*> seen;
  void* first = pool.allocate(100);
  seen.insert(first);
  pool.deallocate(first, 100);
  void* second = pool.allocate(100);
  CHECK(seen.insert(second).second);
  pool.deallocate(second, 100);
  CHECK(pool.in_use() == 0);
  const std::size_t bytes = source.in_use();
  pool.settle();
  for (int i = 0; i < 2; ++i) CHECK(seen.count(pool.allocate(65)) == 1);  // 65 to 128 bytes are one order
  CHECK(source.in_use() == bytes);
  CHECK(seen.insert(pool.allocate(129)).second);
}

TEST_CASE("its blocks are aligned and as long as asked for") {
  host_memory source;
  pooled_memory pool{source};
  CHECK(pool.allocate(0) == nullptr);
  std::set<std::uintptr_t> begins;
  for (const std::size_t bytes : {1u, 64u, 65u, 1000u, 4096u, 4097u}) {
    auto* block = static_cast<unsigned char*>(pool.allocate(bytes));
    CHECK(reinterpret_cast<std::uintptr_t>(block) % memory_alignment == 0);
    block[0] = 1, block[bytes - 1] = 2;
    CHECK(begins.insert(reinterpret_cast<std::uintptr_t>(block)).second);
  }
}

TEST_CASE("arrays come from the memory they are given, and keep it when they are copied") {
  host_memory source;
  pooled_memory pool{source};
  shared_array<int> array({1, 2, 3}, pool);
  shared_array<int> other = array;
  other.push_back(4);
  CHECK(array == shared_array<int>({1, 2, 3}, pool));
  CHECK(other.size() == 4);
  CHECK(&other.get_allocator().memory() == &pool);
  CHECK(pool.in_use() > 0);
}
