// SPDX-License-Identifier: MIT
// A whole training step on the GPU: the losses and gradients of the CPU's, the same bits every time, and
// nothing allocated or waited for on the way.
#include <dsv3/cpu.hpp>
#include <dsv3/cuda.cuh>
#include <dsv3/cuda/host/recorded_work.cuh>
#include <dsv3/train/step.hpp>

#include <train/small.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

using namespace dsv3;

namespace {

/// Wide enough for matrix units, with every feature on.
model_config wide_config() {
  model_config c = support::small_config();
  c.vocab = 64;
  c.hidden = 256;
  c.dense_inner = 384;
  c.heads = 2;
  c.q_rank = 128;
  c.kv_rank = 128;
  c.qk_nope = 128;
  c.qk_rope = 64;
  c.v_dim = 128;
  c.expert_inner = 128;
  c.max_positions = 256;
  c.init_deviation = 0.05;
  return c;
}

dsv3::cuda::device& gpu() {
  static dsv3::cuda::device only;
  return only;
}

/// The same run on either wing.
template <class P, class L, class Ctx>
struct wing_run {
  memory_resource& work;
  memory_resource& shared;
  Ctx ctx;
  deepseek_v3<P, L> model;
  training_state<P, L> state;
  step_options options{.learning_rate = 1e-3, .mtp_weight = 0.3, .balance = {.coefficient = 1e-2}};

  wing_run(memory_resource& work_memory, memory_resource& shared_memory, Ctx context,
           const model_config& config, const step_shape& step)
      : work(work_memory),
        shared(shared_memory),
        ctx(std::move(context)),
        model{config},
        state({work, shared}, model, step) {
    ctx.scratch = scratch_arena{work, scratch_bytes(ctx, model, state)};
    initialize_state(ctx, state, 7);
  }

  template <class Execute = directly>
  step_report step(std::uint64_t seed, Execute&& execute = {}) {
    const auto ids = state.tokens.ids.flat();
    for (index_t i = 0; i < ids.size(); ++i)
      ids(i) = static_cast<std::int32_t>(random_stream{seed, 1}.below(
          static_cast<std::uint64_t>(model.config.vocab), static_cast<std::uint64_t>(i)));
    std::vector<token_batch> batches;
    for (index_t m = 0; m < state.shape.micro_batches; ++m)
      batches.push_back(state.micro_batch(m, state.shape.rows));
    return train_step(ctx, model, state, batches, options, execute);
  }
};

template <class P>
using cpu_run = wing_run<P, compact_layout, cpu_context<>>;
template <class P, class Backend>
using gpu_run = wing_run<P, default_layout, cuda_context<Backend>>;

/// A stream of its own: the default one cannot be recorded.
cudaStream_t gpu_stream() {
  static const cudaStream_t only = [] {
    cudaStream_t made = nullptr;
    dsv3::cuda::require(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "a stream");
    return made;
  }();
  return only;
}

template <class Backend>
cuda_context<Backend> gpu_context() {
  cuda_context<Backend> ctx{.stream = gpu_stream()};
  state_of<backend::cuda>(ctx.state).device = &gpu();
  return ctx;
}

template <class T>
std::vector<double> on_host(view<T, 1> values) {
  std::vector<std::remove_const_t<T>> copied(static_cast<std::size_t>(values.size()));
  dsv3::cuda::require(
      cudaMemcpy(copied.data(), values.data(), copied.size() * sizeof(T), cudaMemcpyDeviceToHost),
      "a tensor of the GPU");
  return {copied.begin(), copied.end()};
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, whole = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference += (a[i] - b[i]) * (a[i] - b[i]), whole += b[i] * b[i];
  return whole > 0 ? std::sqrt(difference / whole) : std::sqrt(difference);
}

std::vector<std::byte> learned(const std::vector<std::span<std::byte>>& parts) {
  std::vector<std::byte> bytes;
  for (const auto part : parts) {
    const std::size_t at = bytes.size();
    bytes.resize(at + part.size());
    if (!part.empty())
      dsv3::cuda::require(cudaMemcpy(bytes.data() + at, part.data(), part.size(), cudaMemcpyDeviceToHost),
                          "the state");
  }
  return bytes;
}

template <class P>
std::vector<double> gradient_of(cpu_run<P>& run, std::size_t i) {
  const auto g = run.state.parameters[i].g;
  return {g.data(), g.data() + g.size()};
}

/// In wide precisions the GPU's gradients are the CPU's up to the order of sums, `limit` of their norm. In
/// narrow ones a rounding may send a token to another expert: there they are no further from those of
/// `Reference` than twice the CPU's in the same precision.
template <class P, class Reference, class Backend>
void compare(const model_config& config, const step_shape& shape, double limit) {
  host_memory host;
  dsv3::cuda::device_memory device;
  dsv3::cuda::shared_memory shared;
  constexpr bool same = std::is_same_v<P, Reference>;
  cpu_run<P> expected{host, host, cpu_context<>{.threads = 4}, config, shape};
  cpu_run<Reference> exact{host, host, cpu_context<>{.threads = 4}, config, shape};
  gpu_run<P, Backend> found{device, shared, gpu_context<Backend>(), config, shape};
  // What gradients held before is never read.
  for (const parameter<P>& row : found.state.parameters)
    dsv3::cuda::require(
        cudaMemset(row.g.data(), 0xFF, static_cast<std::size_t>(row.g.size()) * sizeof(gradient<P>)),
        "poisoned gradients");
  const step_report a = expected.step(1), b = found.step(1), c = exact.step(1);
  CHECK(b.updated);
  CHECK(b.loss == doctest::Approx(c.loss).epsilon(limit));
  CHECK(b.mtp == doctest::Approx(c.mtp).epsilon(limit));
  CHECK(b.grad_norm == doctest::Approx(a.grad_norm).epsilon(same ? limit : 0.1));
  for (std::size_t i = 0; i < expected.state.parameters.size(); ++i) {
    CAPTURE(expected.state.parameters[i].name);
    const std::vector<double> g = on_host(found.state.parameters[i].g), reference = gradient_of(exact, i);
    if constexpr (same)
      CHECK(distance(g, reference) <= limit);
    else
      CHECK(distance(g, reference) <= 2 * distance(gradient_of(expected, i), reference) + 0.01);
  }
  const auto load = found.state.reported.load.flat(), expected_load = expected.state.reported.load.flat();
  std::int64_t sum = 0, differing = 0;
  for (index_t e = 0; e < load.size(); ++e) sum += load(e), differing += std::abs(load(e) - expected_load(e));
  CHECK(sum == config.routers() * config.top_k * shape.tokens());
  CHECK(static_cast<double>(differing) <= (same ? 0 : 0.1) * static_cast<double>(sum));
  for (std::uint64_t seed = 2; seed <= 4; ++seed)
    CHECK(found.step(seed).loss == doctest::Approx(exact.step(seed).loss).epsilon(10 * limit));
}

template <class P, class Backend>
void repeat(const model_config& config, const step_shape& shape) {
  std::vector<std::byte> first;
  for (int attempt = 0; attempt < 2; ++attempt) {
    dsv3::cuda::device_memory device;
    dsv3::cuda::shared_memory shared;
    gpu_run<P, Backend> run{device, shared, gpu_context<Backend>(), config, shape};
    const std::size_t bytes = device.in_use();
    dsv3::cuda::recorded_work recorded;
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      run.options.learning_rate = 1e-3 / static_cast<double>(seed);
      const step_report report = attempt == 0 ? run.step(seed) : run.step(seed, recorded);
      CHECK(report.updated);
    }
    CHECK(device.in_use() == bytes);
    CHECK(run.ctx.scratch.peak() <= run.ctx.scratch.capacity());
    const auto bits = learned(run.state.learned());
    if (attempt == 0)
      first = bits;
    else
      CHECK(std::memcmp(bits.data(), first.data(), bits.size()) == 0);
  }
}

constexpr step_shape small_steps{.micro_batches = 2, .rows = 2, .length = 12};
constexpr step_shape wide_steps{.micro_batches = 1, .rows = 3, .length = 130};

}  // namespace

TEST_CASE("a step of a model of odd widths is the CPU's") {
  compare<fp64_reference, fp64_reference, backend::cuda>(support::small_config(), small_steps, 1e-10);
  compare<fp32, fp32, backend::cuda>(support::small_config(), small_steps, 1e-3);
  compare<bf16_mixed, fp32, backend::cuda>(support::small_config(), small_steps, 1e-2);
}
TEST_CASE("a step of a model of wide tiles is the CPU's") {
  compare<fp64_reference, fp64_reference, backend::cuda>(wide_config(), wide_steps, 1e-10);
  compare<bf16_mixed, fp32, backend::cuda>(wide_config(), wide_steps, 1e-2);
  compare<fp8_tilewise, fp32, backend::cuda>(wide_config(), wide_steps, 2e-2);
}
TEST_CASE("a step of a model of wide tiles is the CPU's on Hopper") {
  if (!gpu().is_hopper()) return;
  compare<bf16_mixed, fp32, backend::hopper>(wide_config(), wide_steps, 1e-2);
  compare<fp8_tilewise, fp32, backend::hopper>(wide_config(), wide_steps, 2e-2);
}
TEST_CASE_TEMPLATE("steps leave the same bits every time, recorded or not", P, bf16_mixed, fp8_tilewise) {
  if (gpu().is_hopper())
    repeat<P, backend::hopper>(wide_config(), wide_steps);
  else
    repeat<P, backend::cuda>(wide_config(), wide_steps);
}
