// SPDX-License-Identifier: MIT
// What dsv3-forward is asked for.
#pragma once

#include <dsv3/exec/paths.hpp>
#include <dsv3/number/precision.hpp>

#include <functional>
#include <string>

namespace forward {

enum class gradients { none, all };

struct request {
  std::string model;  // folder with config.json and weights
  std::string ids;    // safetensors file with input_ids, int64 [rows, length]
  std::string out;    // safetensors file to write
  gradients wanted = gradients::none;
  double mtp_weight = 0;  // what the mean of the MTP losses counts in the gradient
  bool on_gpu = false;
  int threads = 1;
  std::function<void(const dsv3::path_list&)> tell_paths = {};  // before it computes, unless empty
};

/// Runs the model over the ids and writes logits, losses, hidden states and gradients, all as F32.
template <dsv3::precision P>
void run_on_cpu(const request& asked);
template <dsv3::precision P>
void run_on_gpu(const request& asked);
template <dsv3::precision P>
void run(const request& asked) {
  asked.on_gpu ? run_on_gpu<P>(asked) : run_on_cpu<P>(asked);
}

}  // namespace forward
