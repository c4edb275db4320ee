// SPDX-License-Identifier: MIT
// Where the bytes of a GPU come from.
#pragma once

#include <dsv3/cuda/host/error.cuh>
#include <dsv3/exec/memory.hpp>

namespace dsv3::inline DSV3_ABI::cuda {

/// Memory of the current GPU; only kernels and copies may touch it.
class device_memory final : public memory_resource {
  void* obtain(std::size_t bytes) override {
    void* block = nullptr;
    if (const cudaError_t answer = cudaMalloc(&block, bytes); answer != cudaSuccess) {
      (void)cudaGetLastError();
      std::size_t unused = 0, all = 0;
      (void)cudaMemGetInfo(&unused, &all);
      raise("GPU memory: " + std::to_string(bytes) + " bytes asked for, " + std::to_string(unused) + " of " +
            std::to_string(all) + " are free (" + cudaGetErrorString(answer) + ")");
    }
    return block;
  }
  void give_back(void* block, std::size_t) noexcept override { (void)cudaFree(block); }
};

/// Memory of the host that kernels read and write in place, over the bus: for the few numbers that both see.
class shared_memory final : public memory_resource {
  void* obtain(std::size_t bytes) override {
    void* block = nullptr;
    if (const cudaError_t answer = cudaHostAlloc(&block, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
        answer != cudaSuccess) {
      (void)cudaGetLastError();
      raise("host memory for a GPU: " + std::to_string(bytes) + " bytes could not be had (" +
            cudaGetErrorString(answer) + ")");
    }
    return block;
  }
  void give_back(void* block, std::size_t) noexcept override { (void)cudaFreeHost(block); }
};

}  // namespace dsv3::inline DSV3_ABI::cuda
