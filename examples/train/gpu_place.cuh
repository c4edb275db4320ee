// SPDX-License-Identifier: MIT
// Training on a GPU: files are written from a twin of the state in the host's memory, and read into it.
#pragma once

#include "state_files.hpp"

#include <support/gpu_place.cuh>

#include <dsv3/cuda/host/recorded_work.cuh>

#include <memory>

namespace dsv3_train {

template <class Backend, dsv3::precision P>
class gpu_place : public support::gpu_place<Backend> {
  using base = support::gpu_place<Backend>;
  using state_type = dsv3::training_state<P, typename base::layout>;
  using twin_type = dsv3::training_state<P, layout>;  // what state_files knows

 public:
  using base::base;
  using execution = dsv3::cuda::recorded_work;  // of steps
  using typename base::context;

  /// Of the smallest shape: only what is learned counts. Memory that nobody writes takes none.
  twin_type& filed(state_type& state) {
    if (!twin_)
      twin_ = std::make_unique<twin_type>(this->host_, dsv3::deepseek_v3<P, layout>{state.masters.config},
                                          dsv3::step_shape{.rows = 1, .length = 1});
    return *twin_;
  }
  void bring(context& ctx, state_type& state) {
    twin_type& twin = filed(state);
    twin.progress = state.progress;
    exchange(ctx, state.learned(), twin.learned(), cudaMemcpyDeviceToHost);
  }
  void send(context& ctx, state_type& state) {
    twin_type& twin = filed(state);
    state.progress = twin.progress;
    dsv3::prepare_state(ctx, state);
    exchange(ctx, twin.learned(), state.learned(), cudaMemcpyHostToDevice);
  }

 private:
  static void exchange(context& ctx, const std::vector<std::span<std::byte>>& from,
                       const std::vector<std::span<std::byte>>& to, cudaMemcpyKind direction) {
    for (std::size_t i = 0; i < from.size(); ++i) base::move(ctx, from[i], to[i], direction);
    synchronize(ctx);
  }

  std::unique_ptr<twin_type> twin_;
};

}  // namespace dsv3_train
