// SPDX-License-Identifier: MIT
// Starting kernels: what is refused and in whose name, and which grids start nothing. Errors that a GPU
// reports late, checked and unchecked.
#include <dsv3/cuda/host/annotate.cuh>
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/memory/fill.cuh>
#include <dsv3/exec/checked.hpp>
#include <dsv3/exec/measure.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>

using namespace dsv3;

namespace {

__global__ void count_blocks(int* count) {
  if (threadIdx.x == 0) atomicAdd(count, 1);
}
__global__ void use_shared(int* count) {
  extern __shared__ char room[];
  room[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(count, room[blockDim.x - 1]);
}

struct counter {
  cuda::device gpu;
  cuda::shared_memory memory;
  memory_block block{memory, sizeof(int)};
  cuda_context<> ctx{.state = {&gpu}};

  counter() { value() = 0; }
  int& value() { return *reinterpret_cast<int*>(block.data()); }
  std::string start(const cuda::launch_shape& shape, void (*kernel)(int*)) {
    return attempt([&] {
             cuda::launch("count.forward", ctx.stream, shape, kernel, &value());
             synchronize(ctx);
           })
        .message();
  }
};

}  // namespace

TEST_CASE("a grid starts as many blocks as it has, and none where one of its extents is 0") {
  counter c;
  CHECK(c.start({.grid = dim3(3, 2, 2), .block = 32}, count_blocks) == "");
  CHECK(c.value() == 12);
  for (const dim3 empty : {dim3(0, 1, 1), dim3(4, 0, 1), dim3(4, 1, 0)})
    CHECK(c.start({.grid = empty}, count_blocks) == "");
  CHECK(c.value() == 12);
}

TEST_CASE("shared memory beyond 48 KiB is asked for, and too much is refused in the operation's name") {
  counter c;
  CHECK(c.start({.block = 64, .shared_bytes = 96 * 1024}, use_shared) == "");
  CHECK(c.value() == 1);
  CHECK(c.start({.block = 64, .shared_bytes = 1024 * 1024}, use_shared) ==
        "count.forward: 1048576 bytes of shared memory: invalid argument (cudaErrorInvalidValue)");
  CHECK(c.start({.block = 64, .shared_bytes = 1024}, use_shared) == "");
  CHECK(c.value() == 2);
}

TEST_CASE("a shape that no GPU runs is refused in the operation's name") {
  counter c;
  CHECK(c.start({.block = 2048}, count_blocks) ==
        "count.forward: invalid argument (cudaErrorInvalidValue)");
  CHECK(c.start({.grid = dim3(1, 100000), .block = 32}, count_blocks) ==
        "count.forward: invalid argument (cudaErrorInvalidValue)");
  CHECK(c.value() == 0);
  CHECK(c.start({}, count_blocks) == "");
}

TEST_CASE("grids that walk are bounded by the GPU, and small work starts few blocks") {
  CHECK(cuda::grid_for(0, 256) == 0);
  CHECK(cuda::grid_for(1, 256) == 1);
  CHECK(cuda::grid_for(257, 256) == 2);
  CHECK(cuda::grid_for(index_t{1} << 40, 256) == 16u * static_cast<unsigned>(cuda::multiprocessors()));
  CHECK(cuda::grid_for(index_t{1} << 40, 256, 2) == 2u * static_cast<unsigned>(cuda::multiprocessors()));
}

TEST_CASE("annotated and checked bodies compute what the plain one does, with its scratch") {
  cuda::device gpu;
  cuda::shared_memory memory;
  constexpr index_t n = 1000;
  const memory_block block(memory, n * sizeof(float));
  const view<float, 1> y(reinterpret_cast<float*>(block.data()), n);
  const auto fill_with = [&](double value) {
    return [&, value](auto& ctx) { op::fill<float>::constant(ctx, {.y = y, .value = value}); };
  };
  const auto all_are = [&](float value) {
    for (index_t i = 0; i < n; ++i)
      if (y(i) != value) return false;
    return true;
  };
  cuda_context<backend::annotate<backend::hopper>> annotated{.state = {{{&gpu}}}};
  CHECK(measure(annotated, fill_with(1)) == 0);
  fill_with(1)(annotated);
  synchronize(annotated);
  CHECK(all_are(1));
  cuda_context<backend::checked<backend::cuda>> careful{.state = {{&gpu}}};
  fill_with(2)(careful);
  CHECK(all_are(2));  // without a further wait
  cuda_context<backend::checked<backend::annotate<backend::cuda>>> both{.state = {{{&gpu}}}};
  fill_with(3)(both);
  CHECK(all_are(3));
}

// After such an error nothing runs any more in its process: it happens in another one.
TEST_CASE("the process whose GPU breaks down" * doctest::skip()) {
  cuda::device gpu;
  cuda_context<backend::checked<backend::cuda>> careful{.state = {{&gpu}}};
  const view<float, 1> nowhere(reinterpret_cast<float*>(std::uintptr_t{1} << 46), 64);
  for (int i = 0; i < 2; ++i)
    std::puts(
        attempt([&] { op::fill<float>::constant(careful, {.y = nowhere, .value = 1}); }).message().c_str());
}

TEST_CASE("checked, an illegal address is raised by the operation that used it") {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  std::FILE* output = popen((program + " --no-skip --test-case='the process whose*'").c_str(), "r");
  REQUIRE(output != nullptr);
  std::string said;
  for (int letter = std::fgetc(output); letter != EOF; letter = std::fgetc(output))
    said += static_cast<char>(letter);
  pclose(output);
  CAPTURE(said);
  const std::string broken =
      "fill.constant: work on the GPU: an illegal memory access was encountered (cudaErrorIllegalAddress)\n";
  CHECK(said.find(broken + "before " + broken) != std::string::npos);
}
