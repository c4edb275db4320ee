// SPDX-License-Identifier: MIT
// Decoding steps on the GPU: recorded ones leave the bits of those that are launched as they are written.
#include <dsv3/cuda.cuh>
#include <dsv3/cuda/host/recorded_work.cuh>
#include <dsv3/infer/generate.hpp>
#include <dsv3/model/initialize.hpp>

#include <train/small.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstring>
#include <vector>

using namespace dsv3;

namespace {

using layout = default_layout;

/// As wide as Hopper's kernels want it.
model_config config_of_test() {
  model_config c = support::small_config();
  c.vocab = 64;
  c.hidden = 256;
  c.dense_inner = 384;
  c.heads = 2;
  c.q_rank = 128;
  c.kv_rank = 512;
  c.qk_nope = 128;
  c.qk_rope = 64;
  c.v_dim = 128;
  c.expert_inner = 128;
  c.max_positions = 256;
  c.init_deviation = 0.05;
  return c;
}

struct outcome {
  std::vector<std::vector<std::int32_t>> answers;
  std::vector<std::byte> cache;
  std::size_t shapes = 0;
};

template <class P, class Backend>
outcome generate(bool recorded, index_t drafts) {
  cuda::device gpu;
  cuda::device_memory work;
  cuda::shared_memory shared;
  cudaStream_t stream = nullptr;
  cuda::require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  cuda_context<Backend> ctx{.stream = stream};
  state_of<backend::cuda>(ctx.state).device = &gpu;
  const model_config config = config_of_test();
  outcome result;
  {
    owned<model_masters<P>> masters{work, config};
    owned<model_weights<P>> weights{work, config};
    owned<routing_state<P>> routing{work, config};
    initialize(ctx, masters, 1);
    adopt_masters(ctx, masters, weights);
    zero(ctx, static_cast<routing_state<P>&>(routing));
    decoding_state<P, layout> state{work,
                                    {.model = config, .sequences = 3, .longest = 200, .drafts = drafts > 0}};
    cuda::require(cudaMemset(state.cache().rows.data(), 0, state.cache_bytes()), "the cache");
    speculative_decoder<P, layout> decoder{ctx,
                                           {work, shared},
                                           config,
                                           weights,
                                           routing.bias,
                                           state.config(),
                                           {.draft_length = drafts, .prefill_tokens = 16}};
    ctx.scratch = scratch_arena{work, decoder.scratch_bytes(ctx, state)};
    generator<P, layout> requests{state, decoder};
    for (std::uint64_t i = 0; i < 5; ++i) {
      std::vector<std::int32_t> prompt;
      for (std::uint64_t t = 0; t < 9 + 31 * i; ++t)
        prompt.push_back(static_cast<std::int32_t>(random_stream{i, 1}.below(64, t)));
      requests.add({.prompt = prompt,
                    .stop = {.max_tokens = 40},
                    .sampling = {.temperature = i == 0 ? 0.0 : 1.0, .repetition_penalty = i == 3 ? 1.2 : 1.0},
                    .seed = i});
    }
    result.answers.resize(5);
    cuda::recorded_shapes shapes;
    const std::size_t bytes = work.in_use();
    while (requests.busy())
      for (const generation_event& event : recorded ? requests.step(ctx, shapes) : requests.step(ctx)) {
        auto& answer = result.answers[static_cast<std::size_t>(event.request)];
        answer.insert(answer.end(), event.tokens.begin(), event.tokens.end());
      }
    synchronize(ctx);
    CHECK(work.in_use() == bytes);
    result.shapes = shapes.size();
    result.cache.resize(state.cache_bytes());
    cuda::require(cudaMemcpy(result.cache.data(), state.cache().rows.data(), result.cache.size(),
                             cudaMemcpyDeviceToHost),
                  "the cache");
  }
  ctx.scratch = {};
  cuda::require(cudaStreamDestroy(stream), "a stream");
  return result;
}

template <class P, class Backend>
void compare() {
  for (const index_t drafts : {0, 2}) {
    CAPTURE(drafts);
    const outcome expected = generate<P, Backend>(false, drafts), found = generate<P, Backend>(true, drafts);
    for (const auto& answer : expected.answers) CHECK(answer.size() == 40);
    CHECK(found.answers == expected.answers);
    CHECK(std::memcmp(found.cache.data(), expected.cache.data(), expected.cache.size()) == 0);
    CHECK(found.shapes > 0);
    if (drafts == 0) CHECK(found.shapes <= 3);  // of one, two and three sequences
  }
}

}  // namespace

TEST_CASE_TEMPLATE("decoding steps leave the same bits, recorded or not", P, bf16_mixed, fp8_tilewise) {
  if (cuda::device{}.is_hopper())
    compare<P, backend::hopper>();
  else
    compare<P, backend::cuda>();
}
