// SPDX-License-Identifier: MIT
// Distributions and draws over the real model's vocabulary on a GPU: an exponential of doubles per token, and
// what each filter adds to it.
#include <dsv3/cuda/sample/token_distribution.cuh>

#include <support/cuda_bench.hpp>

namespace {

using namespace dsv3;
using op_type = op::token_distribution<fp32>;

constexpr index_t vocab = 129280;
constexpr sampling_options greedy = {};
constexpr sampling_options plain = {.temperature = 1};
constexpr sampling_options top_k = {.temperature = 1, .top_k = 50};
constexpr sampling_options top_p = {.temperature = 1, .top_p = 0.95};
constexpr sampling_options both = {.temperature = 1, .top_k = 50, .top_p = 0.95};

template <index_t Rows, const sampling_options& How>
void sample(benchmark::State& state) {
  support::device_tensor<float> logits(Rows, vocab);
  const support::device_tensor<std::uint64_t> weights(Rows, vocab);
  support::device_tensor<std::uint64_t, 1> totals(Rows), bits(Rows);
  support::device_tensor<std::int32_t, 1> tokens(Rows);
  support::device_tensor<sampling_options, 1> options(Rows);
  logits.normal(1, 3);
  options.generate([](index_t) { return How; });
  bits.generate([](index_t r) { return ~std::uint64_t{0} / Rows * static_cast<std::uint64_t>(r); });
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    op_type::forward(ctx, {.logits = logits, .options = options, .weights = weights, .totals = totals});
    op_type::draw(ctx, {.weights = weights, .totals = totals, .bits = bits, .tokens = tokens});
  });
  support::count_bytes(state, static_cast<double>(logits.bytes() + 2 * weights.bytes()));
}

BENCHMARK_TEMPLATE(sample, 1, top_p)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(sample, 128, greedy)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(sample, 128, plain)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(sample, 128, top_k)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(sample, 128, top_p)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(sample, 128, both)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
