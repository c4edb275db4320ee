// SPDX-License-Identifier: MIT
// One decoding step of `mini` with 2047 tokens behind it: time, and the bytes it touches beside the memory's
// rate. A step over several tokens costs little more, which is what drafts live on.
//   bench/infer.speculative
#include <support/limits.hpp>

#include <dsv3/cpu.hpp>
#include <dsv3/infer/speculative.hpp>
#include <dsv3/model/accounting.hpp>
#include <dsv3/model/initialize.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

namespace {

using namespace dsv3;
using layout = compact_layout;
constexpr index_t context = 2048;
constexpr int threads = 2;

template <precision P>
struct prepared {
  host_memory memory;
  model_config config = model_config::mini();
  owned<model_masters<P>> masters;
  owned<model_weights<P>> weights;
  owned<routing_state<P>> routing;

  prepared() {
    config.mtp_depth = 0;
    masters = owned<model_masters<P>>{memory, config};
    weights = owned<model_weights<P>>{memory, config};
    routing = owned<routing_state<P>>{memory, config};
    cpu_context<> ctx{.threads = threads};
    initialize(ctx, masters, 1);
    copy(ctx, static_cast<const model_masters<P>&>(masters), static_cast<model_weights<P>&>(weights));
    zero(ctx, static_cast<routing_state<P>&>(routing));
  }
};

// Sequences of the batch all have 2047 tokens in the cache; each step adds one and takes it back.
template <precision P>
void decode_mini(benchmark::State& bench) {
  static prepared<P> model;
  const index_t sequences = bench.range(0);
  cpu_context<> ctx{.threads = threads};
  decoding_state<P, layout> state{model.memory,
                                  {.model = model.config, .sequences = sequences, .longest = context}};
  speculative_decoder<P, layout> decoder{ctx,           model.memory,       model.config,
                                         model.weights, model.routing.bias, state.config()};
  ctx.scratch = scratch_arena{model.memory, decoder.scratch_bytes(ctx, state)};
  std::vector<index_t> slots;
  for (index_t s = 0; s < sequences; ++s) {
    std::vector<std::int32_t> prompt;
    for (index_t i = 0; i < context - 1; ++i)
      prompt.push_back(static_cast<std::int32_t>((i * 7919 + s) % model.config.vocab));
    slots.push_back(state.open(prompt));
    while (!decoder.prefill(ctx, state, slots.back())) {
    }
  }
  for (auto _ : bench) {
    decoder.verify(ctx, state, slots);
    for (const index_t slot : slots) state[slot].tokens.pop_back(), --state[slot].cached;
  }
  constexpr auto rate = benchmark::Counter::kIsIterationInvariantRate;
  bench.counters["tokens/s"] = {static_cast<double>(sequences), rate};
  if (sequences > 1) return;
  const double bytes =
      static_cast<double>(model_account{model.config}.activated_without_embedding()) * sizeof(weight<P>) +
      static_cast<double>(state.token_bytes() * context);
  bench.counters["bytes"] = bytes;
  bench.counters["bytes/s"] = {bytes, rate};
  bench.counters["of_copy"] = {bytes / support::copy_bandwidth(threads), rate};
}
BENCHMARK_TEMPLATE(decode_mini, fp32)->ArgName("sequences")->Arg(1)->Arg(2)->Arg(4)->Arg(8)->UseRealTime();
BENCHMARK_TEMPLATE(decode_mini, bf16_mixed)->ArgName("sequences")->Arg(1)->Arg(4)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
