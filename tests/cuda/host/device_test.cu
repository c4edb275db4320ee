// SPDX-License-Identifier: MIT
// What a program is told of a machine that it cannot work on, and of the GPU that it has.
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>

#include <doctest/doctest.h>

#include <string>

using namespace dsv3;

namespace {

constexpr int own = CUDART_VERSION;

std::string version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

std::string opening(int index) {
  return attempt([&] { cuda::device gpu(index); }).message();
}

}  // namespace

TEST_CASE("what makes a machine unusable is said in one sentence") {
  using cuda::usable_gpu;
  CHECK(usable_gpu(cudaErrorInsufficientDriver, 0, 0, 0).message() ==
        "no NVIDIA GPU was found: there is no driver");
  CHECK(usable_gpu(cudaErrorNoDevice, 0, own, 0).message() ==
        "no NVIDIA GPU was found (no CUDA-capable device is detected)");
  CHECK(usable_gpu(cudaSuccess, 0, own, 0).message() == "no NVIDIA GPU was found (no error)");
  CHECK(usable_gpu(cudaErrorInsufficientDriver, 0, 11080, 0).message() ==
        "the driver knows CUDA 11.8, this program was compiled with " + version(own) +
            "; a driver for that or later is needed");
  CHECK(usable_gpu(cudaSuccess, 2, 12040, 0).message() ==
        "the driver knows CUDA 12.4, this program was compiled with " + version(own) +
            "; a driver for that or later is needed");
  CHECK(usable_gpu(cudaSuccess, 2, own, 2).message() == "GPU 2 was asked for, there are 2, counted from 0");
  CHECK(usable_gpu(cudaSuccess, 2, own, -1).message() == "GPU -1 was asked for, there are 2, counted from 0");
  CHECK(usable_gpu(cudaSuccess, 2, own, 1).good());
  CHECK(usable_gpu(cudaSuccess, 1, own + 1000, 0).good());
}

TEST_CASE("compute capability 8.0 and later will do") {
  CHECK(cuda::usable_capability(1, "Tesla V100", 7, 0).message() ==
        "GPU 1, Tesla V100, has compute capability 7.0, 8.0 or later is needed");
  CHECK(cuda::usable_capability(0, "Tesla T4", 7, 5).message() ==
        "GPU 0, Tesla T4, has compute capability 7.5, 8.0 or later is needed");
  CHECK(cuda::usable_capability(0, "A100", 8, 0).good());
  CHECK(cuda::usable_capability(0, "H100", 9, 0).good());
}

TEST_CASE("the GPU says what it is, and a number that no GPU has is refused") {
  int count = 0;
  REQUIRE(cudaGetDeviceCount(&count) == cudaSuccess);
  cuda::device gpu;
  CHECK(gpu.index() == 0);
  CHECK(!gpu.name().empty());
  CHECK(gpu.architecture() >= 80);
  CHECK(gpu.is_hopper() == (gpu.architecture() == 90));
  CHECK(gpu.multiprocessors() == cuda::multiprocessors());
  CHECK(gpu.bytes() > std::size_t{1} << 30);
  const std::string there = ", there are " + std::to_string(count) + ", counted from 0";
  CHECK(opening(count) == "GPU " + std::to_string(count) + " was asked for" + there);
  CHECK(opening(-1) == "GPU -1 was asked for" + there);
  CHECK(opening(0) == "");
}

TEST_CASE("a context without work is done, and what the runtime reported once is not reported again") {
  cuda::device gpu;
  cuda_context<> ctx{.state = {&gpu}};
  CHECK(attempt([&] { synchronize(ctx); }).good());
  CHECK(attempt([&] { cuda::require(cudaSetDevice(12345), "a GPU"); }).message() ==
        "a GPU: invalid device ordinal (cudaErrorInvalidDevice)");
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(attempt([&] { synchronize(ctx); }).good());
}
