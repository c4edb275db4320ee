// SPDX-License-Identifier: MIT
// Work that is launched again and again as one graph: the host says once what to do.
#pragma once

#include <dsv3/cuda/host/error.cuh>
#include <dsv3/exec/cuda_context.hpp>

#include <cstddef>
#include <cstring>
#include <map>
#include <vector>

namespace dsv3::inline DSV3_ABI::cuda {

/// Executes work that depends on memory that stays where it is and on the numbers of a key. The first time
/// for a key it is executed as it is written, and whatever is made at first use is made then; the second time
/// it is recorded; from then on the record is launched. Numbers that differ begin anew.
class recorded_work {
 public:
  recorded_work() = default;
  recorded_work(const recorded_work&) = delete;
  recorded_work& operator=(const recorded_work&) = delete;
  ~recorded_work() { forget(); }

  template <class Backend, class Work>
  void operator()(cuda_context<Backend>& ctx, const std::vector<double>& key, Work&& work) {
    if (!is_known(key)) {
      forget();
      key_ = key;
      work(ctx);
      return;
    }
    if (graph_ == nullptr) record(ctx, work);
    require(cudaGraphLaunch(graph_, ctx.stream), "a recorded graph");
  }

 private:
  // By bits: addresses are among the numbers.
  bool is_known(const std::vector<double>& key) const {
    return key.size() == key_.size() && !key.empty() &&
           std::memcmp(key.data(), key_.data(), key.size() * sizeof(double)) == 0;
  }

  template <class Backend, class Work>
  void record(cuda_context<Backend>& ctx, Work&& work) {
    cudaGraph_t written = nullptr;
    require(cudaStreamBeginCapture(ctx.stream, cudaStreamCaptureModeThreadLocal), "recording a graph");
    try {
      work(ctx);
    } catch (...) {
      if (cudaStreamEndCapture(ctx.stream, &written) == cudaSuccess) (void)cudaGraphDestroy(written);
      (void)cudaGetLastError();
      throw;
    }
    require(cudaStreamEndCapture(ctx.stream, &written), "recording a graph");
    const cudaError_t answer = cudaGraphInstantiate(&graph_, written, 0);
    (void)cudaGraphDestroy(written);
    require(answer, "a recorded graph");
  }

  void forget() {
    if (graph_ != nullptr) (void)cudaGraphExecDestroy(graph_);
    graph_ = nullptr;
    key_.clear();
  }

  std::vector<double> key_;
  cudaGraphExec_t graph_ = nullptr;
};

/// A record for each key: of work that comes in a few shapes, such as decoding steps of so many sequences.
class recorded_shapes {
 public:
  template <class Backend, class Work>
  void operator()(cuda_context<Backend>& ctx, const std::vector<double>& key, Work&& work) {
    if (shapes_.size() == most_shapes && !shapes_.contains(key)) shapes_.clear();
    shapes_[key](ctx, key, work);
  }

  /// How many shapes were seen.
  std::size_t size() const { return shapes_.size(); }

 private:
  static constexpr std::size_t most_shapes = 64;  // a record takes some kilobytes for each kernel

  std::map<std::vector<double>, recorded_work> shapes_;
};

}  // namespace dsv3::inline DSV3_ABI::cuda
