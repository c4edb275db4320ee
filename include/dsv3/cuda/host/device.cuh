// SPDX-License-Identifier: MIT
// One GPU, and what a program keeps for it: what it is, the plans of products, and where its kernels report
// misuse.
#pragma once

#include <dsv3/cuda/host/memory.cuh>
#include <dsv3/cuda/host/misuse.cuh>
#include <dsv3/cuda/host/product_plans.cuh>
#include <dsv3/exec/cuda_context.hpp>

#include <cstring>
#include <optional>
#include <string>

namespace dsv3::inline DSV3_ABI {

namespace cuda {

/// Whether GPU `index` can be worked with, from what runtime and driver say: the answer and the number of
/// GPUs of cudaGetDeviceCount, and the version of cudaDriverGetVersion, 0 where there is no driver.
inline status usable_gpu(cudaError_t answer, int count, int driver, int index) {
  const auto version = [](int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  if (driver == 0) return status{"no NVIDIA GPU was found: there is no driver"};
  if (answer == cudaErrorInsufficientDriver || driver < CUDART_VERSION / 1000 * 1000)
    return status{"the driver knows CUDA " + version(driver) + ", this program was compiled with " +
                  version(CUDART_VERSION) + "; a driver for that or later is needed"};
  if (answer != cudaSuccess || count == 0)
    return status{std::string("no NVIDIA GPU was found (") + cudaGetErrorString(answer) + ")"};
  if (index < 0 || index >= count)
    return status{"GPU " + std::to_string(index) + " was asked for, there are " + std::to_string(count) +
                  ", counted from 0"};
  return {};
}

/// Whether the bodies of backend::cuda run on a GPU of this compute capability.
inline status usable_capability(int index, const char* name, int major, int minor) {
  if (major >= 8) return {};
  return status{"GPU " + std::to_string(index) + ", " + name + ", has compute capability " +
                std::to_string(major) + "." + std::to_string(minor) + ", 8.0 or later is needed"};
}

/// Owns per-GPU state that outlives operations. Neither copied nor moved: contexts point to it.
class device {
 public:
  /// Makes GPU `index` current. Raises where there is none, where it is older than compute capability 8.0, or
  /// where its driver is older than the toolkit this was compiled with.
  explicit device(int index = 0) : index_(index) {
    int count = 0, driver = 0;
    (void)cudaDriverGetVersion(&driver);
    const cudaError_t answer = cudaGetDeviceCount(&count);
    dsv3::require(usable_gpu(answer, count, driver, index));
    require(cudaSetDevice(index), "GPU " + std::to_string(index));
    require(cudaGetDeviceProperties(&properties_, index), "GPU " + std::to_string(index));
    dsv3::require(usable_capability(index, properties_.name, properties_.major, properties_.minor));
    report_ = memory_block(shared_, sizeof(misuse_report));
    std::memset(report_.data(), 0, sizeof(misuse_report));
    taken_ = memory_block(memory_, sizeof(int));
    require(cudaMemset(taken_.data(), 0, sizeof(int)), "GPU " + std::to_string(index));
    report()->taken = reinterpret_cast<int*>(taken_.data());
    products_.emplace();
  }
  device(const device&) = delete;
  device& operator=(const device&) = delete;

  int index() const { return index_; }
  std::string name() const { return properties_.name; }
  /// 90 for compute capability 9.0.
  int architecture() const { return 10 * properties_.major + properties_.minor; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  std::size_t bytes() const { return properties_.totalGlobalMem; }
  /// Whether the bodies of backend::hopper run here.
  bool is_hopper() const { return architecture() == 90; }

  /// The library's products and their algorithms.
  product_plans& products() { return *products_; }

  misuse_report* report() { return reinterpret_cast<misuse_report*>(report_.data()); }

 private:
  int index_;
  cudaDeviceProp properties_ = {};
  shared_memory shared_;
  device_memory memory_;
  memory_block report_, taken_;
  std::optional<product_plans> products_;  // made when there is a GPU
};

/// The device of a context, null where it has none.
template <class Ctx>
device* device_of(Ctx& ctx) {
  return state_of<backend::cuda>(ctx.state).device;
}

/// Where the kernels of a context report; see misuse.
template <class Ctx>
misuse misuse_of(Ctx& ctx, const char* sentence, const char* operation = nullptr) {
  device* gpu = device_of(ctx);
  return {gpu == nullptr ? nullptr : gpu->report(), sentence, operation};
}

}  // namespace cuda

/// Waits until the context's stream is done; raises what went wrong on it, misuse reported by kernels first.
template <class Backend>
void synchronize(cuda_context<Backend>& ctx) {
  const cudaError_t answer = cudaStreamSynchronize(ctx.stream);
  if constexpr (requires { state_of<backend::cuda>(ctx.state); })
    if (cuda::device* gpu = cuda::device_of(ctx); gpu != nullptr) cuda::raise_misuse(*gpu->report());
  cuda::require(answer, "work on the GPU");
}

}  // namespace dsv3::inline DSV3_ABI
