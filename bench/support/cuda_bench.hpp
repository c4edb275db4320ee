// SPDX-License-Identifier: MIT
// Benches on a GPU: tensors in its memory filled with random numbers, time by its own events, and rates
// beside what the same card does in the same process.
//
//     template <class P, class Backend>
//     void forward(benchmark::State& state) {
//       support::device_tensor<activation<P>> x(tokens, hidden), y(tokens, hidden);
//       x.normal(1);
//       support::time_on<Backend>(state, [&](auto& ctx) { op::some<P>::forward(ctx, {.x = x, .y = y}); });
//       support::count_bytes(state, 2.0 * x.bytes());
//     }
//     BENCHMARK_TEMPLATE(forward, bf16_mixed, backend::hopper)->Apply(support::on_gpu);
//     int main(int count, char** words) { return support::bench_main(count, words); }
#pragma once

#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/memory/fill.cuh>
#include <dsv3/exec/measure.hpp>
#include <dsv3/number/bf16.hpp>
#include <dsv3/number/fp8.hpp>

#include <support/scaled_tensor.hpp>

#include <benchmark/benchmark.h>
#include <cublasLt.h>

#include <algorithm>
#include <concepts>
#include <cstdio>
#include <memory>
#include <type_traits>
#include <vector>

namespace support {

using dsv3::index_t;

/// The card that everything here runs on.
inline dsv3::cuda::device& gpu() {
  static dsv3::cuda::device only;
  return only;
}
inline dsv3::cuda::device_memory& gpu_memory() {
  (void)gpu();
  static dsv3::cuda::device_memory only;
  return only;
}

/// The context of a bench, without scratch.
template <class Backend = dsv3::backend::cuda>
dsv3::cuda_context<Backend> context() {
  static cudaStream_t stream = [] {
    cudaStream_t made = nullptr;
    (void)gpu();
    dsv3::cuda::require(cudaStreamCreate(&made), "a stream");
    return made;
  }();
  dsv3::cuda_context<Backend> ctx{.stream = stream};
  dsv3::state_of<dsv3::backend::cuda>(ctx.state).device = &gpu();
  return ctx;
}

/// Contiguous elements in the GPU's memory. Fill them: zeros cost less power than numbers do, and flatter.
template <class T, int Rank = 2>
class device_tensor {
 public:
  template <std::integral... Extent>
  explicit device_tensor(Extent... extents)
      : block_(gpu_memory(),
               sizeof(T) * static_cast<std::size_t>((index_t{1} * ... * static_cast<index_t>(extents)))),
        view_(reinterpret_cast<T*>(block_.data()), extents...) {
    dsv3::cuda::require(cudaMemset(block_.data(), 0, block_.bytes()), "zeros");
  }

  dsv3::view<T, Rank> get() const { return view_; }
  operator dsv3::view<T, Rank>() const { return view_; }
  operator dsv3::view<const T, Rank>() const { return view_; }
  index_t bytes() const { return view_.size() * static_cast<index_t>(sizeof(T)); }

  device_tensor& fill(T value) {
    return computed([&](auto& ctx) {
      dsv3::op::fill<T>::constant(ctx, {.y = view_.flat(), .value = static_cast<double>(value)});
    });
  }
  /// Normal numbers.
  device_tensor& normal(std::uint64_t stream, double deviation = 1) {
    return computed([&](auto& ctx) {
      dsv3::op::fill<T>::normal(ctx,
                                {.y = view_.flat(), .random = {20260101, stream}, .deviation = deviation});
    });
  }
  /// The host's element(i) for the i-th element.
  template <class Rule>
  device_tensor& generate(Rule&& element) {
    std::vector<T> values(static_cast<std::size_t>(view_.size()));
    for (index_t i = 0; i < view_.size(); ++i) values[static_cast<std::size_t>(i)] = element(i);
    dsv3::cuda::require(
        cudaMemcpy(view_.data(), values.data(), static_cast<std::size_t>(bytes()), cudaMemcpyHostToDevice),
        "copying a tensor to the GPU");
    return *this;
  }

 private:
  template <class Work>
  device_tensor& computed(Work&& work) {
    auto ctx = context<>();
    work(ctx);
    synchronize(ctx);
    return *this;
  }

  dsv3::memory_block block_;
  dsv3::view<T, Rank> view_;
};

/// A matrix in scaled tiles in the GPU's memory.
template <class Element, class Tile, int Rank = 2>
using device_scaled_tensor = scaled_tensor<Element, Tile, Rank, device_tensor>;

// ---- time -------------------------------------------------------------------------------------------------

/// What the GPU's second-level cache holds when a repetition begins: nothing of the tensors, or what the last
/// repetition left there.
enum class cache { cold, warm };

namespace detail {

// Reads memory, so that the cache holds it, and holds it clean: what a flush by writing leaves would be
// written back on the account of the work that follows.
template <class Word>
__global__ void read_through(const Word* from, index_t n, unsigned* sink) {
  unsigned seen = 0;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    seen |= from[i].x | from[i].y | from[i].z | from[i].w;
  if (seen != 0) *sink = seen;  // never: the memory is zero
}

inline void flush_cache(cudaStream_t stream) {
  static const auto zeros = [] {
    int bytes = 0;
    dsv3::cuda::require(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, gpu().index()),
                        "the L2 cache");
    dsv3::memory_block block(gpu_memory(),
                             std::max<std::size_t>(4 * static_cast<std::size_t>(bytes), 1 << 20));
    dsv3::cuda::require(cudaMemset(block.data(), 0, block.bytes()), "the flush of the L2 cache");
    return block;
  }();
  dsv3::cuda::launch("flush", stream, {.grid = 8u * static_cast<unsigned>(gpu().multiprocessors())},
                     read_through<uint4>, reinterpret_cast<const uint4*>(zeros.data()),
                     static_cast<index_t>(zeros.bytes() / sizeof(uint4)),
                     reinterpret_cast<unsigned*>(zeros.data()));
}

struct event_pair {
  cudaEvent_t begin = nullptr, end = nullptr;
  event_pair() {
    dsv3::cuda::require(cudaEventCreate(&begin), "an event");
    dsv3::cuda::require(cudaEventCreate(&end), "an event");
  }
  event_pair(const event_pair&) = delete;
  event_pair& operator=(const event_pair&) = delete;
  ~event_pair() { (void)cudaEventDestroy(begin), (void)cudaEventDestroy(end); }

  template <class Work>
  void around(cudaStream_t stream, Work&& work) {
    dsv3::cuda::require(cudaEventRecord(begin, stream), "an event");
    work();
    dsv3::cuda::require(cudaEventRecord(end, stream), "an event");
  }
  double seconds() const {
    float milliseconds = 0;
    dsv3::cuda::require(cudaEventElapsedTime(&milliseconds, begin, end), "the time between two events");
    return 1e-3 * static_cast<double>(milliseconds);
  }
};

}  // namespace detail

/// The median time of work() on the context's stream. What runs before each repetition (the flush, or the
/// work itself) also gives the host time to be ahead, so that launching is not measured.
template <class Ctx, class Work>
double median_seconds(Ctx& ctx, Work&& work, cache found = cache::cold) {
  constexpr double budget = 0.15;  // seconds on the GPU
  const auto before = [&] { found == cache::cold ? detail::flush_cache(ctx.stream) : work(); };
  detail::event_pair estimate;
  for (int i = 0; i < 3; ++i) before(), estimate.around(ctx.stream, work);
  synchronize(ctx);
  const auto wanted = static_cast<int>(budget / (estimate.seconds() + 1e-4));
  std::vector<detail::event_pair> events(static_cast<std::size_t>(std::clamp(wanted, 7, 200)));
  for (auto& pair : events) before(), pair.around(ctx.stream, work);
  synchronize(ctx);
  std::vector<double> seconds;
  for (const auto& pair : events) seconds.push_back(pair.seconds());
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<long>(seconds.size() / 2), seconds.end());
  return seconds[seconds.size() / 2];
}

/// One iteration is one call of median_seconds, which repeats enough by itself.
inline void on_gpu(benchmark::internal::Benchmark* bench) {
  bench->Iterations(1)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

/// Times work(ctx) on a context of Backend with exactly the scratch it needs. What the card cannot run, and
/// what goes wrong, is said in the bench's line.
template <class Backend, class Work>
void time_on(benchmark::State& state, Work&& work, cache found = cache::cold) {
  if (std::is_same_v<Backend, dsv3::backend::hopper> && !gpu().is_hopper()) {
    state.SkipWithError("skipped: this GPU is no Hopper");
    return;
  }
  try {
    auto ctx = context<Backend>();
    ctx.scratch = dsv3::scratch_arena{gpu_memory(), measure(ctx, work)};
    for (auto _ : state)
      state.SetIterationTime(median_seconds(
          ctx, [&] { work(ctx); }, found));
  } catch (const dsv3::error& failure) {
    state.SkipWithError(failure.what());
  }
}

// ---- limits -----------------------------------------------------------------------------------------------

/// Bytes per second, read and written ones together, of copying 1 GiB inside the GPU's memory.
inline double copy_bandwidth() {
  static const double measured = [] {
    constexpr std::size_t bytes = std::size_t{1} << 30;
    device_tensor<float, 1> from(bytes / sizeof(float));
    const device_tensor<float, 1> to(bytes / sizeof(float));
    from.normal(1);
    auto ctx = context<>();
    return 2.0 * bytes / median_seconds(ctx, [&] {
             dsv3::cuda::require(cudaMemcpyAsync(to.get().data(), from.get().data(), bytes,
                                                 cudaMemcpyDeviceToDevice, ctx.stream),
                                 "the copy that limits are measured by");
           });
  }();
  return measured;
}

namespace detail {

inline void require(cublasStatus_t answer, const char* what) {
  if (answer != CUBLAS_STATUS_SUCCESS)
    dsv3::raise(std::string("cuBLASLt, ") + what + ": " + cublasLtGetStatusString(answer));
}
template <class Handle, auto Destroy>
struct destroyer {
  void operator()(Handle handle) const { (void)Destroy(handle); }
};
template <class Handle, auto Destroy>
using held = std::unique_ptr<std::remove_pointer_t<Handle>, destroyer<Handle, Destroy>>;

// FLOP/s of d = a·bᵀ of three n x n matrices by the best kernel that cuBLASLt proposes; 0 where it has none.
template <class Element>
double measure_matrix_peak() {
  constexpr index_t n = 8192;
  constexpr bool is_fp8 = std::is_same_v<Element, dsv3::fp8_e4m3>;
  constexpr cudaDataType_t kind = is_fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  device_tensor<Element> a(n, n), b(n, n);
  const device_tensor<dsv3::bf16> d(n, n);
  const device_tensor<char, 1> workspace(index_t{64} << 20);
  a.normal(1), b.normal(2);

  cublasLtHandle_t made = nullptr;
  require(cublasLtCreate(&made), "a handle");
  const held<cublasLtHandle_t, cublasLtDestroy> handle(made);
  const auto matrix = [&](cudaDataType_t type) {
    cublasLtMatrixLayout_t layout = nullptr;
    require(cublasLtMatrixLayoutCreate(&layout, type, n, n, n), "a layout");
    return held<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>(layout);
  };
  const auto in = matrix(kind), out = matrix(CUDA_R_16BF);
  cublasLtMatmulDesc_t described = nullptr;
  require(cublasLtMatmulDescCreate(&described, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product");
  const held<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> product(described);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  require(
      cublasLtMatmulDescSetAttribute(described, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
      "a product");
  if constexpr (is_fp8) {
    const std::int8_t quick = 1;  // sums in the matrix unit's own registers, its full rate
    require(cublasLtMatmulDescSetAttribute(described, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &quick, sizeof(quick)),
            "a product");
  }
  cublasLtMatmulPreference_t wished = nullptr;
  require(cublasLtMatmulPreferenceCreate(&wished), "a preference");
  const held<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference(wished);
  const std::size_t room = static_cast<std::size_t>(workspace.bytes());
  require(cublasLtMatmulPreferenceSetAttribute(wished, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room,
                                               sizeof(room)),
          "a preference");

  constexpr int most = 6;
  cublasLtMatmulHeuristicResult_t found[most];
  int count = 0;
  if (cublasLtMatmulAlgoGetHeuristic(made, described, in.get(), in.get(), out.get(), out.get(), wished, most,
                                     found, &count) != CUBLAS_STATUS_SUCCESS)
    return 0;
  const float one = 1, zero = 0;
  auto ctx = context<>();
  double best = 0;
  for (int i = 0; i < count; ++i) {
    if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
    const double seconds = median_seconds(ctx, [&] {
      require(cublasLtMatmul(made, described, &one, a.get().data(), in.get(), b.get().data(), in.get(), &zero,
                             d.get().data(), out.get(), d.get().data(), out.get(), &found[i].algo,
                             workspace.get().data(), room, ctx.stream),
              "a product");
    });
    best = std::max(best, 2.0 * n * n * n / seconds);
  }
  return best;
}

}  // namespace detail

/// FLOP/s of cuBLASLt's product 8192 x 8192 x 8192 of bf16 or fp8_e4m3 elements; 0 where it has none.
template <class Element>
double matrix_peak() {
  static const double measured = detail::measure_matrix_peak<Element>();
  return measured;
}

// ---- counters ---------------------------------------------------------------------------------------------

/// An operation whose limit is memory: `bytes` read and written by one call. With a warm cache the share may
/// be above 1.
inline void count_bytes(benchmark::State& state, double bytes) {
  constexpr auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["bytes/s"] = {bytes, rate};
  state.counters["of_copy"] = {bytes / copy_bandwidth(), rate};
}

/// An operation whose limit is the matrix units: floating-point operations of one call, and the format of
/// what they multiply.
template <class Element>
void count_flops(benchmark::State& state, double flops) {
  constexpr auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["FLOP/s"] = {flops, rate};
  if (const double peak = matrix_peak<Element>(); peak > 0)
    state.counters[std::is_same_v<Element, dsv3::fp8_e4m3> ? "of_fp8_peak" : "of_bf16_peak"] = {flops / peak,
                                                                                                rate};
}

// ---- main -------------------------------------------------------------------------------------------------

/// Runs the benches; 77 with a sentence where there is no GPU.
inline int bench_main(int count, char** words) {
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) {
    std::puts("skipped: no NVIDIA GPU was found");
    return 77;
  }
  try {
    benchmark::AddCustomContext("gpu", gpu().name());
    benchmark::Initialize(&count, words);
    if (benchmark::ReportUnrecognizedArguments(count, words)) return 2;
    benchmark::RunSpecifiedBenchmarks();
  } catch (const dsv3::error& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
  benchmark::Shutdown();
  return 0;
}

}  // namespace support
