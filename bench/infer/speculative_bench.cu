// SPDX-License-Identifier: MIT
// One decoding step on the GPU, each sequence with 1023 tokens behind it: launched kernel by kernel, and as
// one graph.
//   bench/gpu/infer.speculative                                 tokens per second
#include <support/cuda_bench.hpp>

#include <dsv3/cuda.cuh>
#include <dsv3/cuda/host/recorded_work.cuh>
#include <dsv3/infer/speculative.hpp>
#include <dsv3/model/initialize.hpp>
#include <dsv3/model/named_config.hpp>

#include <cstdint>
#include <vector>

namespace {

using namespace dsv3;

constexpr const char mini[] = "mini", small[] = "small";

template <class P, class Backend, const char* Name, index_t Sequences, bool Recorded>
void decode(benchmark::State& state) {
  if (std::is_same_v<Backend, backend::hopper> && !support::gpu().is_hopper())
    return state.SkipWithError("skipped: this GPU is no Hopper");
  try {
    constexpr index_t context = 1024;
    dsv3::cuda::device_memory memory;
    dsv3::cuda::shared_memory shared;
    model_config config = named_config(Name);
    config.mtp_depth = 0;
    auto ctx = support::context<Backend>();
    owned<model_weights<P>> weights{memory, config};
    owned<routing_state<P>> routing{memory, config};
    {
      owned<model_masters<P>> masters{memory, config};
      initialize(ctx, masters, 1);
      adopt_masters(ctx, masters, weights);
      zero(ctx, static_cast<routing_state<P>&>(routing));
      synchronize(ctx);
    }
    decoding_state<P> cached{memory, {.model = config, .sequences = Sequences, .longest = context}};
    speculative_decoder<P> decoder{ctx, {memory, shared}, config, weights, routing.bias, cached.config()};
    std::vector<index_t> slots;
    for (index_t s = 0; s < Sequences; ++s) {
      std::vector<std::int32_t> prompt;
      for (index_t i = 0; i < context - 1; ++i)
        prompt.push_back(static_cast<std::int32_t>((i * 7919 + s) % config.vocab));
      slots.push_back(cached.open(prompt));
      while (!decoder.prefill(ctx, cached, slots.back())) {
      }
    }
    dsv3::cuda::recorded_shapes recorded;
    const auto step = [&] {
      if (Recorded)
        decoder.verify(ctx, cached, slots, recorded);
      else
        decoder.verify(ctx, cached, slots);
      for (const index_t slot : slots) cached[slot].tokens.pop_back(), --cached[slot].cached;
    };
    for (int warm = 0; warm < 3; ++warm) step();
    for (auto _ : state) step();
    state.counters["tokens/s"] = {static_cast<double>(Sequences),
                                  benchmark::Counter::kIsIterationInvariantRate};
    ctx.scratch = {};
  } catch (const error& failure) {
    state.SkipWithError(failure.what());
  }
}

void on_clock(benchmark::internal::Benchmark* bench) {
  bench->UseRealTime()->Unit(benchmark::kMicrosecond)->MinTime(0.3);
}
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, mini, 1, false)->Apply(on_clock);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, mini, 1, true)->Apply(on_clock);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, mini, 16, false)->Apply(on_clock);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, mini, 16, true)->Apply(on_clock);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, small, 1, false)->Apply(on_clock);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, small, 1, true)->Apply(on_clock);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, small, 16, false)->Apply(on_clock);
BENCHMARK_TEMPLATE(decode, bf16_mixed, backend::hopper, small, 16, true)->Apply(on_clock);

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
