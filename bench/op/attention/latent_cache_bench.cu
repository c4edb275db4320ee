// SPDX-License-Identifier: MIT
// Rows into pages and back on a GPU: limited by memory; rows in 8 bits are quantised and widened on the way.
#include <dsv3/cuda/attention/latent_cache.cuh>

#include <support/cuda_bench.hpp>

namespace {

using namespace dsv3;

// So many tokens of each of so many sequences, at the end of a context of 4096: a prompt, and a step.
template <class P, class Row, index_t Sequences, index_t Tokens, bool Append>
void latent_cache(benchmark::State& state) {
  using op_type = op::latent_cache<P, Row>;
  constexpr index_t rank = 512, rope = 64, page_rows = 64, length = 4096, pages = length / page_rows;
  constexpr index_t tokens = Sequences * Tokens, width = Row::width(rank, rope);
  support::device_tensor<activation<P>> c(tokens, rank), k_rope(tokens, rope);
  const support::device_tensor<typename op_type::element, 3> pool(Sequences * pages, page_rows, width);
  support::device_tensor<std::int32_t> table(Sequences, pages);
  support::device_tensor<std::int32_t, 1> lengths(Sequences), offsets(Sequences + 1), positions(tokens);
  c.normal(1), k_rope.normal(2), lengths.fill(length);
  offsets.generate([&](index_t b) { return static_cast<std::int32_t>(b * Tokens); });
  table.generate([&](index_t i) { return static_cast<std::int32_t>(i * 13 % (Sequences * pages)); });
  const packed_sequences which = {offsets, positions, Tokens};
  support::time_on<backend::cuda>(state, [&](auto& ctx) {
    if constexpr (Append)
      op_type::append(ctx, {.c = c, .k_rope = k_rope, .tokens = which, .cache = {pool, table, lengths}});
    else
      op_type::gather(ctx, {.cache = {pool, table, lengths}, .tokens = which, .c = c, .k_rope = k_rope});
  });
  support::count_bytes(state, static_cast<double>(c.bytes() + k_rope.bytes()) +
                                  static_cast<double>(tokens * width) * sizeof(typename op_type::element));
}

BENCHMARK_TEMPLATE(latent_cache, bf16_mixed, cache_row::plain, 32, 4096, true)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(latent_cache, bf16_mixed, cache_row::plain, 32, 4096, false)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(latent_cache, bf16_mixed, cache_row::fp8, 32, 4096, true)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(latent_cache, bf16_mixed, cache_row::fp8, 32, 4096, false)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(latent_cache, bf16_mixed, cache_row::plain, 128, 1, true)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
