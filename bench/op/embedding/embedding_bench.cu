// SPDX-License-Identifier: MIT
// The embedding on a GPU moves memory, in rows that lie anywhere; backward sorts the tokens by id first.
#include <dsv3/cuda/embedding/embedding.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

#include <cmath>
#include <set>

namespace {

using namespace dsv3;

constexpr auto& sizes = support::deepseek_v3;

// All ids equally often, or as in text: the n-th id as often as 1 / n says.
enum class draw { evenly, as_text };

template <draw How>
std::vector<std::int32_t> ids_of(index_t tokens) {
  const random_stream random(20260101, 9);
  std::vector<std::int32_t> ids;
  for (index_t t = 0; t < tokens; ++t) {
    const double u = random.uniform(static_cast<std::uint64_t>(t)), vocab = static_cast<double>(sizes.vocab);
    ids.push_back(static_cast<std::int32_t>(How == draw::evenly ? u * vocab : std::pow(vocab, u) - 1));
  }
  return ids;
}

template <class P, draw How, index_t Tokens>
void forward(benchmark::State& state) {
  const auto numbers = ids_of<How>(Tokens);
  support::device_tensor<std::int32_t, 1> ids(Tokens);
  support::device_tensor<weight<P>> table(sizes.vocab, sizes.hidden);
  const support::device_tensor<activation<P>> y(Tokens, sizes.hidden);
  table.normal(1), ids.generate([&](index_t t) { return numbers[static_cast<std::size_t>(t)]; });
  support::time_on<backend::cuda>(
      state, [&](auto& ctx) { op::embedding<P>::forward(ctx, {.ids = ids, .table = table, .y = y}); });
  const auto distinct = static_cast<double>(std::set(numbers.begin(), numbers.end()).size());
  support::count_bytes(state, static_cast<double>(sizes.hidden) *
                                  (distinct * sizeof(weight<P>) + double(Tokens) * sizeof(activation<P>)));
}

template <class P, draw How, index_t Tokens>
void backward(benchmark::State& state) {
  const auto numbers = ids_of<How>(Tokens);
  support::device_tensor<std::int32_t, 1> ids(Tokens);
  support::device_tensor<activation<P>> dy(Tokens, sizes.hidden);
  const support::device_tensor<gradient<P>> dtable(sizes.vocab, sizes.hidden);
  dy.normal(1), ids.generate([&](index_t t) { return numbers[static_cast<std::size_t>(t)]; });
  support::time_on<backend::cuda>(
      state, [&](auto& ctx) { op::embedding<P>::backward(ctx, {.ids = ids, .dy = dy, .dtable = dtable}); });
  const auto distinct = static_cast<double>(std::set(numbers.begin(), numbers.end()).size());
  support::count_bytes(state, static_cast<double>(sizes.hidden) * (distinct * 2 * sizeof(gradient<P>) +
                                                                   double(Tokens) * sizeof(activation<P>)));
}

BENCHMARK_TEMPLATE(forward, bf16_mixed, draw::evenly, 4096)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(forward, bf16_mixed, draw::as_text, 16384)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, bf16_mixed, draw::evenly, 4096)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, bf16_mixed, draw::evenly, 16384)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(backward, bf16_mixed, draw::as_text, 16384)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
