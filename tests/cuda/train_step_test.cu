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
  solo comm;
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
    return train_step(ctx, comm, model, state, batches, options, execute);
  }
};

template <class P>
using cpu_run = wing_run<P, compact_layout, cpu_context<>>;
template <class P, class Backend>
using gpu_run = wing_run<P, default_layout, cuda_context<Backend>>;

template <class Backend>
cuda_context<Backend> gpu_context() {
  cuda_context<Backend> ctx{};
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

/// Allowed distance of a gradient from the CPU's in the same precision, and of a loss as a share of it.
struct allowed {
  double gradient, loss;
};
template <class P>
constexpr allowed limits = std::is_same_v<P, fp64_reference> ? allowed{1e-10, 1e-12}
                           : std::is_same_v<P, fp32>         ? allowed{1e-3, 1e-5}
                           : std::is_same_v<P, bf16_mixed>   ? allowed{0.08, 5e-3}
                                                             : allowed{0.35, 2e-2};

template <class P, class Backend>
void compare(const model_config& config, const step_shape& shape) {
  host_memory host;
  dsv3::cuda::device_memory device;
  dsv3::cuda::shared_memory shared;
  cpu_run<P> expected{host, host, cpu_context<>{.threads = 4}, config, shape};
  gpu_run<P, Backend> found{device, shared, gpu_context<Backend>(), config, shape};
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    CAPTURE(seed);
    const step_report a = expected.step(seed), b = found.step(seed);
    CHECK(b.updated);
    CHECK(b.loss == doctest::Approx(a.loss).epsilon(limits<P>.loss));
    CHECK(b.mtp == doctest::Approx(a.mtp).epsilon(limits<P>.loss));
    CHECK(b.grad_norm == doctest::Approx(a.grad_norm).epsilon(limits<P>.gradient));
    if (seed > 1) continue;  // afterwards the weights differ as well
    for (std::size_t i = 0; i < expected.state.parameters.size(); ++i) {
      const auto& row = expected.state.parameters[i];
      CAPTURE(row.name);
      const std::vector<double> g(row.g.data(), row.g.data() + row.g.size());
      CHECK(distance(on_host(found.state.parameters[i].g), g) <= limits<P>.gradient);
    }
    const auto load = found.state.reported.load.flat(), expected_load = expected.state.reported.load.flat();
    std::int64_t sum = 0, differing = 0;
    for (index_t e = 0; e < load.size(); ++e)
      sum += load(e), differing += std::abs(load(e) - expected_load(e));
    CHECK(sum == config.routers() * config.top_k * shape.tokens());
    CHECK(static_cast<double>(differing) <=
          (std::is_same_v<P, fp64_reference> ? 0 : 0.05) * static_cast<double>(sum));
  }
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

TEST_CASE_TEMPLATE("a step of a model of odd widths is the CPU's", P, fp64_reference, fp32, bf16_mixed) {
  compare<P, backend::cuda>(support::small_config(), small_steps);
}
TEST_CASE_TEMPLATE("a step of a model of wide tiles is the CPU's", P, fp64_reference, bf16_mixed,
                   fp8_tilewise) {
  compare<P, backend::cuda>(wide_config(), wide_steps);
}
TEST_CASE_TEMPLATE("a step of a model of wide tiles is the CPU's on Hopper", P, bf16_mixed, fp8_tilewise) {
  if (!gpu().is_hopper()) return;
  compare<P, backend::hopper>(wide_config(), wide_steps);
}
TEST_CASE_TEMPLATE("steps leave the same bits every time, recorded or not", P, bf16_mixed, fp8_tilewise) {
  if (gpu().is_hopper())
    repeat<P, backend::hopper>(wide_config(), wide_steps);
  else
    repeat<P, backend::cuda>(wide_config(), wide_steps);
}
