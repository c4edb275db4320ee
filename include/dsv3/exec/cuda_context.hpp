// SPDX-License-Identifier: MIT
// The context of NVIDIA GPUs. It names the runtime's stream type without its headers, so that any compiler
// can pass it on; what launches or waits is in cuda/.
#pragma once

#include <dsv3/exec/context.hpp>

struct CUstream_st;  // what cudaStream_t points to

namespace dsv3::inline DSV3_ABI {

namespace cuda {
class device;  // cuda/host/device.cuh
}

/// Library handles, cached plans and the place where kernels report misuse. Operations that need none of them
/// run without one.
template <>
struct backend_state<backend::cuda> {
  cuda::device* device = nullptr;
};

/// Work on one stream of one GPU. Two streams need two contexts, so the stream orders all reuse of scratch.
///
///     cuda::device gpu;
///     cuda_context ctx{.stream = stream, .scratch = scratch_arena{memory, bytes}, .state = {&gpu}};
template <class Backend = backend::cuda>
struct cuda_context {
  using backend_type = Backend;

  ::CUstream_st* stream = nullptr;
  scratch_arena scratch = {};  // of device memory
  backend_state<Backend> state = {};

  /// The same stream for another backend, without scratch.
  template <class Other>
  cuda_context<Other> with_backend() const {
    return cuda_context<Other>{.stream = stream, .scratch = {}, .state = {}};
  }
};

}  // namespace dsv3::inline DSV3_ABI
