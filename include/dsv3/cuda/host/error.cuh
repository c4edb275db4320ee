// SPDX-License-Identifier: MIT
// The runtime's answers as dsv3::error.
#pragma once

#include <dsv3/base/error.hpp>

#include <cuda_runtime_api.h>

#include <string>

namespace dsv3::inline DSV3_ABI::cuda {

/// Raises "<what>: <the runtime's sentence>" unless `answer` is success.
inline void require(cudaError_t answer, const std::string& what) {
  if (answer == cudaSuccess) return;
  (void)cudaGetLastError();  // what was reported once is not reported again by the next call
  raise(what + ": " + cudaGetErrorString(answer) + " (" + cudaGetErrorName(answer) + ")");
}

}  // namespace dsv3::inline DSV3_ABI::cuda
