// SPDX-License-Identifier: MIT
// Starting kernels: grids, shared memory beyond 48 KiB, clusters, and the error named after the operation.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/cuda/host/error.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <limits>
#include <string>

namespace dsv3::inline DSV3_ABI::cuda {

/// How a kernel is started.
struct launch_shape {
  dim3 grid = 1, block = 256;
  std::size_t shared_bytes = 0;  // dynamic
  unsigned cluster = 1;          // blocks of a cluster, along x
};

/// Starts `kernel`; a grid without blocks starts nothing. `name` is the record's, for the error.
template <class... Parameters, class... Arguments>
void launch(const char* name, cudaStream_t stream, const launch_shape& shape, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  if (shape.shared_bytes > 0)  // what the kernel declares itself counts towards 48 KiB too
    if (const cudaError_t answer = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                        static_cast<int>(shape.shared_bytes));
        answer != cudaSuccess)
      require(answer,
              std::string(name) + ": " + std::to_string(shape.shared_bytes) + " bytes of shared memory");
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {shape.cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid, config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  require(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

/// Multiprocessors of the current GPU.
inline int multiprocessors() {
  int index = 0, count = 1;
  require(cudaGetDevice(&index), "the current GPU");
  require(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, index), "the current GPU");
  return count;
}

/// Blocks for `items` at `per_block` each, for kernels that walk on by the whole grid: no more than `waves`
/// per multiprocessor.
inline unsigned grid_for(index_t items, index_t per_block, int waves = 16) {
  const index_t wanted = ceil_div(items, per_block), most = static_cast<index_t>(multiprocessors()) * waves;
  return static_cast<unsigned>(std::min(wanted, most));
}

}  // namespace dsv3::inline DSV3_ABI::cuda
