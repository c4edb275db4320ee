// SPDX-License-Identifier: MIT
// The matrix and copy engines of compute capability 9.0 as our words for them promise: boxes arrive swizzled,
// operands of either major are read as described, sums lie where sum_row and sum_column say.
#include <dsv3/cuda/device/mma.cuh>
#include <dsv3/cuda/device/tma.cuh>
#include <dsv3/cuda/device/wgmma.cuh>
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/host/tensor_map.cuh>
#include <dsv3/exec/random.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <type_traits>
#include <vector>

using namespace dsv3;
using namespace dsv3::cuda;

namespace {

constexpr int panel = 64 * 128;  // 64 rows of 128 bytes

// How A comes to the matrix unit.
enum class source { shared, registers };

struct maps {
  CUtensorMap a, b, d;
};

/// d (64 x N) = a · bᵀ over 128 bytes of k, by one warpgroup: all comes and goes by the copy engine, in
/// panels of 128 bytes a row. Also shows through `swizzled` what the first panel of a looks like in shared
/// memory.
template <class A, class B, int N, major AMajor, major BMajor, source Source>
__global__ void __launch_bounds__(128) one_tile(const __grid_constant__ maps map, unsigned char* swizzled) {
#if DSV3_SM90A
  constexpr int k = 128 / static_cast<int>(sizeof(A)), step = 32 / static_cast<int>(sizeof(A));
  constexpr int b_bytes = N * 128;
  unsigned char *a = reinterpret_cast<unsigned char*>(dynamic_shared()), *b = a + panel, *out = b + 256 * 128;
  __shared__ mbarrier arrived;
  if (threadIdx.x == 0) arrived.init(1), publish_barriers();
  __syncthreads();
  if (threadIdx.x < 32 && elected()) {
    arrived.arrive_and_expect(panel + b_bytes);
    load_box(a, map.a, arrived, 0, 0);
    if constexpr (BMajor == major::k)
      load_box(b, map.b, arrived, 0, 0);
    else
      for (int p = 0; p < N / 64; ++p) load_box(b + p * panel, map.b, arrived, p * 64, 0);
  }
  __syncwarp();
  arrived.wait(0);
  for (int i = static_cast<int>(threadIdx.x); i < panel; i += 128) swizzled[i] = a[i];

  float sums[N / 2];
  const std::uint64_t left = operand_at<AMajor>(shared_address(a));
  const std::uint64_t right = operand_at<BMajor>(shared_address(b), panel);
  std::uint32_t held[k / step][4] = {};
  if constexpr (Source == source::registers)
    for (int s = 0; s < k / step; ++s) {
      const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
      load_matrices(held[s], shared_address(a) + swizzle_128(row, s * 32 + lane / 16 * 16));
    }
  pin(sums), fence_sums();
#pragma unroll
  for (int s = 0; s < k / step; ++s) {
    const std::uint64_t x = operand_after(left, s * (AMajor == major::k ? 32 : 2048));
    const std::uint64_t y = operand_after(right, s * (BMajor == major::k ? 32 : 2048));
    if constexpr (!std::is_same_v<A, bf16>)
      multiply_fp8<N, A, B>(sums, x, y, s > 0);
    else if constexpr (Source == source::shared)
      multiply_bf16<N, AMajor, BMajor>(sums, x, y, s > 0);
    else
      multiply_bf16<N, BMajor>(sums, held[s], y, s > 0);
  }
  commit_products(), wait_products(), pin(sums);

  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const int column = sum_column(thread, i);
    *reinterpret_cast<float*>(out + column / 32 * panel +
                              swizzle_128(static_cast<std::uint32_t>(sum_row(thread, i)),
                                          static_cast<std::uint32_t>(column % 32 * 4))) = sums[i];
  }
  publish_shared();
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int p = 0; p < ceil_div(N, 32); ++p) store_box(map.d, out + p * panel, p * 32, 0);
    for (int p = 0; p < ceil_div(N, 32); ++p)
      commit_stores(), wait_stores(), add_box(map.d, out + p * panel, p * 32, 0);
    commit_stores(), wait_stores();
  }
#else
  __trap();
#endif
}

/// Small whole numbers, which every format holds and whose sums are exact.
template <class T>
std::vector<T> numbers(std::size_t count, std::uint64_t stream) {
  const random_stream random(20260101, stream);
  std::vector<T> result(count);
  for (std::size_t i = 0; i < count; ++i)
    result[i] = T(static_cast<float>(static_cast<int>(random.below(9, i)) - 4));
  return result;
}

template <class A, class B, int N, major AMajor = major::k, major BMajor = major::k,
          source Source = source::shared>
void multiplies() {
  constexpr index_t k = 128 / static_cast<index_t>(sizeof(A)), n = N;
  CAPTURE(N);
  static device gpu;
  if (!gpu.is_hopper()) return;
  const auto rows = [](major m, index_t outer) { return m == major::k ? outer : k; };
  const auto columns = [](major m, index_t outer) { return m == major::k ? k : outer; };
  const std::vector<A> a = numbers<A>(64 * k, 1);
  const std::vector<B> b = numbers<B>(N * k, 2);
  std::vector<float> d(64 * N, -1);
  std::vector<unsigned char> swizzled(panel);
  const view<const A, 2> a_view(a.data(), rows(AMajor, 64), columns(AMajor, 64));
  const view<const B, 2> b_view(b.data(), rows(BMajor, n), columns(BMajor, n));
  const view<float, 2> d_view(d.data(), 64, n);
  REQUIRE(takes_tensor_map(d_view));
  const maps map{
      .a = tensor_map("test", a_view, {64, static_cast<int>(128 / sizeof(A))}, box_swizzle::bytes_128),
      .b = tensor_map("test", b_view, {BMajor == major::k ? N : 64, static_cast<int>(128 / sizeof(B))},
                      box_swizzle::bytes_128),
      .d = tensor_map("test", d_view, {64, 32}, box_swizzle::bytes_128)};
  launch("test", nullptr, {.block = 128, .shared_bytes = panel + 256 * 128 + 8 * panel},
         one_tile<A, B, N, AMajor, BMajor, Source>, map, swizzled.data());
  require(cudaDeviceSynchronize(), "the test");

  bool lies_swizzled = true, right = true;
  for (std::uint32_t r = 0; r < 64; ++r)
    for (std::uint32_t byte = 0; byte < 128; ++byte)
      lies_swizzled = lies_swizzled && swizzled[swizzle_128(r, byte)] ==
                                           reinterpret_cast<const unsigned char*>(&a_view(r, 0))[byte];
  for (index_t i = 0; i < 64; ++i)
    for (index_t j = 0; j < N; ++j) {
      double sum = 0;
      for (index_t l = 0; l < k; ++l)
        sum += static_cast<double>(static_cast<float>(AMajor == major::k ? a_view(i, l) : a_view(l, i))) *
               static_cast<double>(static_cast<float>(BMajor == major::k ? b_view(j, l) : b_view(l, j)));
      right = right && static_cast<double>(d_view(i, j)) == 2 * sum;  // stored, then added
    }
  CHECK(lies_swizzled);
  CHECK(right);
}

}  // namespace

TEST_CASE("every place of a tile of sums has one owner") {
  for (const int n : {16, 128, 256}) {
    std::vector<int> owners(static_cast<std::size_t>(64 * n), 0);
    for (int thread = 0; thread < 128; ++thread)
      for (int i = 0; i < n / 2; ++i)
        ++owners[static_cast<std::size_t>(sum_row(thread, i) * n + sum_column(thread, i))];
    CHECK(owners == std::vector<int>(owners.size(), 1));
  }
}

TEST_CASE("bf16 from shared memory, in every pair of majors") {
  multiplies<bf16, bf16, 64>();
  multiplies<bf16, bf16, 256>();
  multiplies<bf16, bf16, 128, major::k, major::mn>();
  multiplies<bf16, bf16, 256, major::mn, major::mn>();
  multiplies<bf16, bf16, 192, major::mn, major::k>();
  multiplies<bf16, bf16, 16>();
  multiplies<bf16, bf16, 96>();
}

TEST_CASE("bf16 with one operand in registers") {
  multiplies<bf16, bf16, 64, major::k, major::k, source::registers>();
  multiplies<bf16, bf16, 128, major::k, major::mn, source::registers>();
  multiplies<bf16, bf16, 256, major::k, major::mn, source::registers>();
}

TEST_CASE("8 bits, in both formats") {
  multiplies<fp8_e4m3, fp8_e4m3, 128>();
  multiplies<fp8_e5m2, fp8_e4m3, 128>();
  multiplies<fp8_e4m3, fp8_e5m2, 152>();
  multiplies<fp8_e5m2, fp8_e5m2, 32>();
}

TEST_CASE("the copy engine says what it cannot walk") {
  alignas(16) static float data[4096];
  CHECK(takes_tensor_map(view<float, 2>(data, 8, 64)));
  CHECK(!takes_tensor_map(view<float, 2>(data + 1, 8, 64)));
  CHECK(!takes_tensor_map(view<float, 2>(data, 8, 63)));
  CHECK(!takes_tensor_map(view<float, 2>(data, 0, 64)));
  CHECK(!takes_tensor_map(view<float, 3>(data, {2, 2, 4}, {9, 4, 1})));
  std::string sentence;
  try {
    (void)tensor_map("some.operation", view<float, 2>(data, 8, 63), {8, 32}, box_swizzle::bytes_128);
  } catch (const error& failure) {
    sentence = failure.what();
  }
  CHECK(sentence.find(
            "some.operation: the driver makes no map of extents and strides 8 by 63 in boxes of 8, 63 by "
            "1 in boxes of 32, elements of 4 bytes at ") == 0);
}
