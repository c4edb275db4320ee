// SPDX-License-Identifier: MIT
// A GPU as the place where a program computes.
#pragma once

#include <dsv3/cuda.cuh>
#include <dsv3/cuda/host/recorded_work.cuh>

#include <span>
#include <utility>

namespace support {

/// The first GPU and a stream of its own. See cpu_place.
template <class Backend>
class gpu_place {
 public:
  /// Segments of experts begin where tiles of matrix units do.
  using layout = dsv3::default_layout;
  using context = dsv3::cuda_context<Backend>;
  using decoding = dsv3::cuda::recorded_shapes;
  /// Rows of logits that exist at a time: each time the gradient of the output matrix goes over the bus to
  /// memory.
  static constexpr dsv3::index_t head_chunk_tokens = 4096;

  /// The host's threads are not asked for.
  explicit gpu_place(int) {
    dsv3::cuda::require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  }
  gpu_place(const gpu_place&) = delete;
  gpu_place& operator=(const gpu_place&) = delete;
  ~gpu_place() { (void)cudaStreamDestroy(stream_); }

  dsv3::memory_sources memory() { return {work_, shared_}; }
  context make_context() {
    context ctx{.stream = stream_};
    dsv3::state_of<dsv3::backend::cuda>(ctx.state).device = &gpu_;
    return ctx;
  }
  static context plan_context(int) { return {}; }

  dsv3::host_memory& host() { return host_; }
  template <class Bundle>
  dsv3::owned<Bundle> placed(context& ctx, dsv3::owned<Bundle> from) {
    return moved(ctx, work_, std::move(from), cudaMemcpyHostToDevice);
  }
  template <class Bundle>
  dsv3::owned<Bundle> fetched(context& ctx, dsv3::owned<Bundle> from) {
    return moved(ctx, host_, std::move(from), cudaMemcpyDeviceToHost);
  }

 protected:
  static void move(context& ctx, std::span<const std::byte> from, std::span<std::byte> to,
                   cudaMemcpyKind direction) {
    if (!from.empty())
      dsv3::cuda::require(cudaMemcpyAsync(to.data(), from.data(), from.size(), direction, ctx.stream),
                          "a copy between host and GPU");
  }

  dsv3::host_memory host_;

 private:
  template <class Bundle>
  static dsv3::owned<Bundle> moved(context& ctx, dsv3::memory_resource& to, dsv3::owned<Bundle> from,
                                   cudaMemcpyKind direction) {
    if (from.bytes() == 0) return from;
    dsv3::owned<Bundle> result{to, from.config};
    move(ctx, from.memory(), result.memory(), direction);
    synchronize(ctx);
    return result;
  }

  dsv3::cuda::device gpu_;
  dsv3::cuda::device_memory work_;
  dsv3::cuda::shared_memory shared_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace support
