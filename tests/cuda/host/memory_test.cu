// SPDX-License-Identifier: MIT
// Memory of a GPU: what is given out, and what is said when there is not enough.
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>

using namespace dsv3;

namespace {

__global__ void add_one(int* numbers, int count) {
  for (int i = 0; i < count; ++i) ++numbers[i];
}

}  // namespace

TEST_CASE("a block of the GPU's memory starts on a cache line, is counted, and goes back") {
  cuda::device gpu;
  cuda::device_memory memory;
  {
    const memory_block first(memory, 100), second(memory, 3);
    CHECK(memory.in_use() == 103);
    for (const std::byte* start : {first.data(), second.data()})
      CHECK(reinterpret_cast<std::uintptr_t>(start) % memory_alignment == 0);
    cudaPointerAttributes found = {};
    REQUIRE(cudaPointerGetAttributes(&found, first.data()) == cudaSuccess);
    CHECK(found.type == cudaMemoryTypeDevice);
  }
  CHECK(memory.in_use() == 0);
  CHECK(memory.peak() == 103);
}

TEST_CASE("shared memory is written by kernels and read by the host") {
  cuda::device gpu;
  cuda::shared_memory memory;
  const memory_block block(memory, 3 * sizeof(int));
  int* numbers = reinterpret_cast<int*>(block.data());
  for (int i = 0; i < 3; ++i) numbers[i] = 10 * i;
  cuda_context<> ctx{.state = {&gpu}};
  cuda::launch("add_one", ctx.stream, {.grid = 1, .block = 1}, add_one, numbers, 3);
  synchronize(ctx);
  for (int i = 0; i < 3; ++i) CHECK(numbers[i] == 10 * i + 1);
}

TEST_CASE("memory that the GPU does not have is refused with what it has, and the program goes on") {
  cuda::device gpu;
  cuda::device_memory memory;
  constexpr std::size_t far_too_much = std::size_t{1} << 50;
  const std::string said = attempt([&] { memory_block(memory, far_too_much); }).message();
  CAPTURE(said);
  CHECK(said.starts_with("GPU memory: 1125899906842624 bytes asked for, "));
  CHECK(said.find(" are free (out of memory)") != std::string::npos);
  CHECK(memory.in_use() == 0);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(memory_block(memory, 64).data() != nullptr);
}

TEST_CASE("scratch that is too small is refused before anything starts") {
  cuda::device gpu;
  cuda::device_memory memory;
  cuda_context<> ctx{.scratch = scratch_arena{memory, 128}, .state = {&gpu}};
  CHECK(attempt([&] { ctx.scratch.take<float>(33); }).message() ==
        "scratch: 192 bytes asked for, 128 of 128 left; measure() tells what the arena must hold");
}
