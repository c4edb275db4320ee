// SPDX-License-Identifier: MIT
// Absorbed attention on a GPU: limited by memory with few heads, by the matrix units with many. Both rates
// are given; cached rows count once however many heads and queries read them.
#include <dsv3/cuda/attention/latent_cache.cuh>
#include <dsv3/cuda/attention/mla_decode_sm90.cuh>

#include <support/cuda_bench.hpp>

#include <cmath>

namespace {

using namespace dsv3;

struct decode_shape {
  index_t sequences, length, heads, queries;
};

// Many sequences, with one query each or with one more that verifies a draft, of models with many and with
// few heads; lengths that differ; one long sequence alone.
constexpr decode_shape full = {128, 4096, 128, 1}, drafted = {128, 4096, 128, 2}, half = {128, 4096, 64, 1},
                       few = {128, 4096, 16, 1}, few_drafted = {128, 4096, 16, 2}, alone = {1, 65536, 128, 1},
                       small = {8, 1024, 16, 1};

template <class P, class Backend, const decode_shape& Shape, class Row = cache_row::plain,
          bool Uneven = false>
void decode(benchmark::State& state) {
  using op_type = op::mla_decode<P, Row>;
  constexpr decode_shape s = Shape;
  constexpr index_t rank = 512, rope = 64, page_rows = 64, pages = s.length / page_rows;
  constexpr index_t tokens = s.sequences * s.queries, rows = s.sequences * s.length;
  support::device_tensor<activation<P>, 3> q_latent(tokens, s.heads, rank), q_rope(tokens, s.heads, rope),
      z(tokens, s.heads, rank);
  support::device_tensor<typename op_type::element, 3> pool(s.sequences * pages, page_rows,
                                                            Row::width(rank, rope));
  support::device_tensor<std::int32_t> table(s.sequences, pages);
  support::device_tensor<std::int32_t, 1> lengths(s.sequences), offsets(s.sequences + 1), positions(tokens);
  q_latent.normal(1), q_rope.normal(2), lengths.fill(s.length);
  offsets.generate([&](index_t b) { return static_cast<std::int32_t>(b * s.queries); });
  // Pages from all over the pool.
  table.generate([&](index_t i) { return static_cast<std::int32_t>(i * 13 % (s.sequences * pages)); });
  const paged_view<typename op_type::element> cache{pool, table, lengths};
  {
    support::device_tensor<activation<P>> c(rows, rank), k_rope(rows, rope);
    support::device_tensor<std::int32_t, 1> first(s.sequences + 1), all(rows);
    c.normal(3), k_rope.normal(4);
    first.generate([&](index_t b) { return static_cast<std::int32_t>(b * s.length); });
    auto ctx = support::context<>();
    op::latent_cache<P, Row>::append(
        ctx, {.c = c, .k_rope = k_rope, .tokens = {first, all, s.length}, .cache = cache});
    synchronize(ctx);
  }
  // From a quarter of the length to all of it.
  const auto length_of = [&](index_t b) {
    return Uneven ? s.length / 4 + b * 37 % s.sequences * (s.length * 3 / 4) / (s.sequences - 1) : s.length;
  };
  lengths.generate([&](index_t b) { return static_cast<std::int32_t>(length_of(b)); });
  double cached = 0;
  for (index_t b = 0; b < s.sequences; ++b) cached += static_cast<double>(length_of(b));
  support::time_on<Backend>(state, [&](auto& ctx) {
    op_type::forward(ctx, {.q_latent = q_latent,
                           .q_rope = q_rope,
                           .queries = {offsets, positions, s.queries},
                           .cache = cache,
                           .scale = 1 / std::sqrt(192.0),
                           .z = z});
  });
  support::count_bytes(state, cached * static_cast<double>(pool.bytes() / rows) +
                                  static_cast<double>(q_latent.bytes() + q_rope.bytes() + z.bytes()));
  support::count_flops<bf16>(state,
                             cached * static_cast<double>(s.queries * s.heads) * 2 * (2 * rank + rope));
}

BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, full)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, drafted)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, half)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, few)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, few_drafted)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, full, cache_row::plain, true)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, alone)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, small)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::cuda, few)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::cuda, few, cache_row::fp8)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::cuda, small)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(decode, fp32, backend::cuda, small)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
