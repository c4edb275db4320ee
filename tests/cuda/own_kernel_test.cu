// SPDX-License-Identifier: MIT
// What docs/cuda.md shows: an operation on memory of the caller's own, and a kernel put in the place of the
// library's for one context.
#include <dsv3/cuda.cuh>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

namespace {

struct my_gpu {
  using parent = dsv3::backend::hopper;  // whatever is not replaced
};

__global__ void fill_from_the_end(float* y, dsv3::index_t n, float value) {
  const dsv3::index_t i = static_cast<dsv3::index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) y[n - 1 - i] = value + 0.5f;
}

}  // namespace

;

template <>
struct dsv3::implementation<dsv3::op::fill<float>, my_gpu>
    : dsv3::implementation<dsv3::op::fill<float>, dsv3::backend::cuda> {
  using base = dsv3::implementation<dsv3::op::fill<float>, dsv3::backend::cuda>;
  using base::run;  // keep fill.normal

  template <class Ctx>
  static void run(Ctx& ctx, const typename dsv3::op::fill<float>::constant_args& args) {
    const dsv3::index_t n = args.y.extent(0);
    dsv3::cuda::launch("fill.constant", ctx.stream, {.grid = static_cast<unsigned>(dsv3::ceil_div(n, 256))},
                       fill_from_the_end, args.y.data(), n, static_cast<float>(args.value));
  }
};

namespace {

std::vector<float> on_host(const float* from, std::size_t count) {
  std::vector<float> values(count);
  REQUIRE(cudaMemcpy(values.data(), from, count * sizeof(float), cudaMemcpyDeviceToHost) == cudaSuccess);
  return values;
}

}  // namespace

TEST_CASE("an operation works on pointers of the caller's, on the caller's stream") {
  constexpr dsv3::index_t tokens = 3, hidden = 256;
  float *x = nullptr, *gain = nullptr, *y = nullptr;
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  REQUIRE(cudaMalloc(&x, tokens * hidden * sizeof(float)) == cudaSuccess);
  REQUIRE(cudaMalloc(&gain, hidden * sizeof(float)) == cudaSuccess);
  REQUIRE(cudaMalloc(&y, tokens * hidden * sizeof(float)) == cudaSuccess);
  std::vector<float> numbers(tokens * hidden);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = i % 2 == 0 ? 3.0f : -4.0f;
  const std::vector<float> twos(hidden, 2);
  REQUIRE(cudaMemcpy(x, numbers.data(), numbers.size() * sizeof(float), cudaMemcpyDefault) == cudaSuccess);
  REQUIRE(cudaMemcpy(gain, twos.data(), hidden * sizeof(float), cudaMemcpyDefault) == cudaSuccess);

  dsv3::cuda::device gpu;
  dsv3::cuda_context<> ctx{.stream = stream, .state = {&gpu}};
  dsv3::op::rms_norm<dsv3::fp32>::forward(ctx, {.x = dsv3::view{x, tokens, hidden},
                                                .gain = dsv3::view{gain, hidden},
                                                .y = dsv3::view{y, tokens, hidden}});
  synchronize(ctx);

  const float rms = std::sqrt(12.5f);
  for (const float value : on_host(y, numbers.size()))
    CHECK(std::abs(value) == doctest::Approx((value > 0 ? 6 : 8) / rms));
  for (float* block : {x, gain, y}) CHECK(cudaFree(block) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("a kernel of one's own runs in its context, and the library's in the others") {
  dsv3::cuda::device gpu;
  dsv3::cuda::device_memory memory;
  const dsv3::memory_block block(memory, 1000 * sizeof(float));
  const dsv3::view<float, 1> y(reinterpret_cast<float*>(block.data()), 1000);
  dsv3::cuda_context<my_gpu> mine{.state = {{{&gpu}}}};
  dsv3::cuda_context<dsv3::backend::hopper> theirs{.state = {{&gpu}}};

  dsv3::op::fill<float>::constant(mine, {.y = y, .value = 1});
  synchronize(mine);
  CHECK(on_host(y.data(), 1000) == std::vector<float>(1000, 1.5f));
  dsv3::op::fill<float>::constant(theirs, {.y = y, .value = 1});
  synchronize(theirs);
  CHECK(on_host(y.data(), 1000) == std::vector<float>(1000, 1.0f));

  dsv3::op::fill<float>::normal(mine, {.y = y, .random = {1, 2}});
  synchronize(mine);
  const std::vector<float> drawn = on_host(y.data(), 1000);
  dsv3::op::fill<float>::normal(theirs, {.y = y, .random = {1, 2}});
  synchronize(theirs);
  CHECK(on_host(y.data(), 1000) == drawn);
}
