// SPDX-License-Identifier: MIT
// Transposed quantisation moves memory: its limit is the copy bandwidth.
#include <dsv3/cpu/quant/transposing_quantizer.hpp>

#include <support/counters.hpp>
#include <support/sizes.hpp>
#include <support/tensor.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace dsv3;

struct tiles {
  support::tensor<fp8_e4m3, 2> codes;
  support::tensor<float, 2> scales;

  tiles(index_t rows, index_t columns) : codes(rows, columns), scales(rows, ceil_div(columns, 128)) {}
  scaled_view<fp8_e4m3, row_tile> get() const {
    const auto s = scales.get();
    const index_t extents[] = {s.extent(0), s.extent(1)}, strides[] = {s.stride(0), 1};
    return {codes, {s.data(), extents, strides}};
  }
  double bytes() const { return static_cast<double>(codes.bytes() + scales.bytes()); }
};

template <class From>
struct tensors {
  support::tensor<From, 2> x;
  tiles y, t;
  explicit tensors(const support::model_sizes& m)
      : x(m.tokens, m.hidden), y(m.tokens, m.hidden), t(m.hidden, m.tokens) {
    x.normal(1);
  }
};

template <class From, const support::model_sizes& Sizes>
void forward(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tensors<From> f(Sizes);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state) op::transposing_quantizer<From, fp8_e4m3>::forward(ctx, {.x = f.x, .t = f.t.get()});
  support::count_bytes(state, static_cast<double>(f.x.bytes()) + f.t.bytes(), threads);
}

template <class From, const support::model_sizes& Sizes>
void both(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tensors<From> f(Sizes);
  cpu_context<> ctx{.threads = threads};
  for (auto _ : state)
    op::transposing_quantizer<From, fp8_e4m3>::both(ctx, {.x = f.x, .y = f.y.get(), .t = f.t.get()});
  support::count_bytes(state, static_cast<double>(f.x.bytes()) + f.y.bytes() + f.t.bytes(), threads);
}

template <const support::model_sizes& Sizes>
void retile(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tensors<bf16> f(Sizes);
  cpu_context<> ctx{.threads = threads};
  using op_type = op::transposing_quantizer<bf16, fp8_e4m3>;
  op_type::both(ctx, {.x = f.x, .y = f.y.get(), .t = f.t.get(), .scales = scale_kind::power_of_two});
  for (auto _ : state) op_type::retile(ctx, {.y = f.y.get(), .t = f.t.get()});
  support::count_bytes(state, f.y.bytes() + f.t.bytes(), threads);
}

BENCHMARK_TEMPLATE(forward, bf16, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, float, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(both, bf16, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(retile, support::deepseek_v3)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(forward, bf16, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(both, bf16, support::mini)->Apply(support::on_threads);
BENCHMARK_TEMPLATE(retile, support::mini)->Apply(support::on_threads);

}  // namespace

BENCHMARK_MAIN();
