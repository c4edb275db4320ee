// SPDX-License-Identifier: MIT
// Tour, stop 7: a checkpoint answers prompts. Three requests share two places and one cache; the MTP module
// drafts, and the text is the same as without it.
#include <support/tour.hpp>

#include <dsv3/infer/generate.hpp>
#include <dsv3/model/checkpoint.hpp>

#include <cstdio>
#include <string>
#include <vector>

using namespace dsv3;
using P = fp32;
using layout = compact_layout;
using tokens = std::vector<std::int32_t>;

struct answer {
  std::vector<tokens> texts;
  double tokens_per_step = 0;
};

// All requests to their ends, with `draft_length` drafts a step.
answer run(const std::string& folder, const std::vector<tokens>& prompts, index_t draft_length) {
  checkpoint_reader reader{folder};
  const model_config& config = reader.config();
  tour::place here;
  auto& memory = here.memory;
  owned<model_weights<P>> weights{memory, config};
  owned<routing_state<P>> routing{memory, config};
  reader.read(weights, routing.bias, layout::rope);

  // [generate]
  auto ctx = here.context();
  decoding_state<P, layout> state{
      memory, {.model = config, .sequences = 2, .longest = 48, .drafts = draft_length > 0}};
  speculative_decoder<P, layout> decoder{
      ctx, memory, config, weights, routing.bias, state.config(), {.draft_length = draft_length}};
  ctx.scratch = scratch_arena{memory, decoder.scratch_bytes(ctx, state)};

  generator<P, layout> work{state, decoder};
  answer result;
  for (const tokens& prompt : prompts) {
    work.add({.prompt = prompt, .stop = {.max_tokens = 24}, .sampling = {.temperature = 0}});
    result.texts.push_back(prompt);
  }
  while (work.busy())
    for (const generation_event& event : work.step(ctx)) {
      tokens& text = result.texts[static_cast<std::size_t>(event.request)];
      text.insert(text.end(), event.tokens.begin(), event.tokens.end());
    }
  // [generate]

  const generation_counts& counts = work.counts();
  result.tokens_per_step =
      static_cast<double>(counts.decoded_tokens) / static_cast<double>(counts.decoded_alone);
  std::printf(
      "draft length %lld: %lld prompt tokens read, %lld shared; %.2f tokens per step; "
      "%lld bytes of cache per token\n",
      static_cast<long long>(draft_length), static_cast<long long>(counts.prompt_tokens),
      static_cast<long long>(counts.shared_tokens), result.tokens_per_step,
      static_cast<long long>(state.token_bytes()));
  if (state.pool().free_pages() != state.pool().pages()) raise("a page was not given back");
  return result;
}

int main(int argc, char** argv) {
  const std::string folder = argc > 1 ? argv[1] : "tests/data/golden/tiny_mtp";
  const std::vector<tokens> prompts{{5, 17, 42, 3, 64, 8, 30}, {5, 17, 42, 3, 64, 8, 77, 12}, {90, 1}};

  const answer plain = run(folder, prompts, 0);
  for (const tokens& text : plain.texts) {
    for (const std::int32_t token : text) std::printf("%d ", token);
    std::printf("\n");
  }
  bool same = true;
  for (const index_t draft_length : {1, 3})
    same = same && run(folder, prompts, draft_length).texts == plain.texts;
  std::printf("%s\n", same ? "drafts change the speed and not the text" : "drafts changed the text");
  return same ? 0 : 1;
}
