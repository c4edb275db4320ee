// SPDX-License-Identifier: MIT
// The rotary embedding on a GPU moves memory: its limit is the copy bandwidth.
#include <dsv3/cuda/rope/decoupled_rope.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

namespace {

using namespace dsv3;

constexpr auto& sizes = support::deepseek_v3;
constexpr rope_config yarn{.factor = 40};

template <class P>
auto table_config() {
  return
      typename rope_table<accumulator<P>>::config_type{.positions = sizes.tokens, .qk_rope = sizes.qk_rope};
}

// The rotary columns of the queries, or of the one key, where they lie beside the others. Inverse costs the
// same.
template <class P, rope_layout Layout, index_t Heads, index_t Before>
void apply(benchmark::State& state) {
  using op_type = op::decoupled_rope<P, Layout>;
  support::device_tensor<activation<P>, 3> q(sizes.tokens, Heads, Before + sizes.qk_rope);
  support::device_tensor<std::int32_t, 1> positions(sizes.tokens);
  q.normal(1), positions.generate([](index_t t) { return static_cast<std::int32_t>(t); });
  const owned<rope_table<accumulator<P>>> table(support::gpu_memory(), table_config<P>());
  auto ctx = support::context();
  op_type::table(ctx, {.rope = yarn, .table = table});
  const auto x = q.get().columns(Before, Before + sizes.qk_rope);
  support::time_on<backend::cuda>(
      state, [&](auto& timed) { op_type::apply(timed, {.x = x, .positions = positions, .table = table}); });
  support::count_bytes(state, 2.0 * static_cast<double>(x.size()) * sizeof(activation<P>));
}

// Filling the table: 2 * pairs numbers a position, by cosine and sine in double.
template <class P>
void table(benchmark::State& state) {
  const owned<rope_table<accumulator<P>>> filled(support::gpu_memory(), table_config<P>());
  support::time_on<backend::cuda>(
      state, [&](auto& ctx) { op::decoupled_rope<P>::table(ctx, {.rope = yarn, .table = filled}); });
  support::count_bytes(state, static_cast<double>(filled.bytes()));
}

BENCHMARK_TEMPLATE(apply, bf16_mixed, rope_layout::interleaved, sizes.heads, sizes.qk_nope)
    ->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(apply, bf16_mixed, rope_layout::half_split, sizes.heads, sizes.qk_nope)
    ->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(apply, fp32, rope_layout::interleaved, sizes.heads, sizes.qk_nope)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(apply, bf16_mixed, rope_layout::interleaved, 1, sizes.kv_rank)->Apply(support::on_gpu);
BENCHMARK_TEMPLATE(table, bf16_mixed)->Apply(support::on_gpu);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
