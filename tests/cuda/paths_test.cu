// SPDX-License-Identifier: MIT
// Which path operations say they run, found by the dispatch that runs them.
#include <dsv3/cuda/linear/batched_gemm.cuh>
#include <dsv3/cuda/linear/gemm.cuh>
#include <dsv3/cuda/linear/grouped_gemm_sm90.cuh>
#include <dsv3/cuda/memory/copy.cuh>
#include <dsv3/exec/measure.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>

using namespace dsv3;

namespace {

// Of a linear layer and of experts whose rows of `width` elements lie `width` apart: nothing is computed, so
// that addresses need not be anybody's.
template <class P, class Backend>
std::string line_of(index_t width) {
  auto* const values = reinterpret_cast<activation<P>*>(memory_alignment);
  auto* const numbers = reinterpret_cast<std::int32_t*>(memory_alignment);
  const auto work = [&](auto& ctx) {
    op::gemm<P>::forward(
        ctx, {.x = view{values, 8, width}, .w = view{values, width, width}, .y = view{values, 8, width}});
    const ragged_view<activation<P>> rows{view{values, 8, width}, view{numbers, 3}, view{numbers, 2}};
    op::grouped_gemm<P>::forward(ctx, {.x = rows, .w = view{values, 2, width, width}, .y = rows});
    op::copy<activation<P>, activation<P>>::forward(
        ctx, {.x = view{values, 8, width}, .y = view{values, 8, width}});
  };
  path_list paths;
  measure(cuda_context<Backend>{}, work, &paths);
  return paths.line();
}

}  // namespace

TEST_CASE("Hopper's kernels, the library's and the functional ones are told apart") {
  CHECK(line_of<bf16_mixed, backend::hopper>(64) ==
        "cuBLASLt: gemm; Hopper's own: grouped_gemm; functional CUDA: copy");
  CHECK(line_of<bf16_mixed, backend::cuda>(64) == "cuBLASLt: gemm; functional CUDA: grouped_gemm, copy");
}

TEST_CASE("rows that the copy engine cannot walk are the functional kernel's") {
  CHECK(line_of<bf16_mixed, backend::hopper>(63) == "cuBLASLt: gemm; functional CUDA: grouped_gemm, copy");
}

TEST_CASE("in double precision Hopper has no kernels of its own") {
  CHECK(line_of<fp64_reference, backend::hopper>(64) ==
        "cuBLASLt: gemm; functional CUDA: grouped_gemm, copy");
}
