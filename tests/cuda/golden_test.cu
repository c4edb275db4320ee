// SPDX-License-Identifier: MIT
// The same logits, losses, hidden states and gradients as another implementation, computed on a GPU.
#include <examples/forward/run.hpp>
#include <examples/support/gpu_place.cuh>

#include <io/folder.hpp>
#include <model/golden.hpp>

#include <doctest/doctest.h>

namespace {

using namespace dsv3;

template <precision P>
void run_all() {
  const support::temporary_folder folder;
  for (const char* variant : golden::variants) {
    CAPTURE(variant);
    forward::run_at<P, support::gpu_place<backend::cuda>>(
        {.model = golden::folder_of(variant),
         .ids = golden::folder_of(variant) + "/golden.safetensors",
         .out = folder / "out",
         .wanted = forward::gradients::all,
         .mtp_weight = golden::mtp_weight,
         .threads = 1});
    golden::compare(variant, folder / "out");
  }
}

}  // namespace

TEST_CASE("transformers on a GPU, in fp32") { run_all<fp32>(); }
TEST_CASE("transformers on a GPU, in fp64") { run_all<fp64_reference>(); }
