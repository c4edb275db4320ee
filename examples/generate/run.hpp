// SPDX-License-Identifier: MIT
// Prompts through the generator; included by one source file for each precision.
#pragma once

#include "answers.hpp"
#include "request.hpp"

#include <support/command_line.hpp>
#include <support/gpu.hpp>

#include <dsv3/infer/generate.hpp>
#include <dsv3/model/checkpoint.hpp>
#include <dsv3/text/tokenizer.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

namespace generate {

using namespace dsv3;

/// The closing line: what was read and written, how quickly, what became of drafts, what the cache takes.
template <precision P, layout_policy L>
void print_figures(const generation_counts& counts, const draft_counts& drafts,
                   const decoding_state<P, L>& state) {
  const auto rate = [](std::int64_t tokens, double seconds) {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
  };
  std::fprintf(stderr, "prompt %lld tokens at %.1f/s", static_cast<long long>(counts.prompt_tokens),
               rate(counts.prompt_tokens, counts.prompt_seconds));
  if (counts.shared_tokens > 0)
    std::fprintf(stderr, " and %lld shared", static_cast<long long>(counts.shared_tokens));
  std::fprintf(stderr, "; decoded %lld tokens at %.1f/s, %.2f per step",
               static_cast<long long>(counts.decoded_tokens),
               rate(counts.decoded_tokens, counts.decode_seconds),
               counts.decoded_alone > 0
                   ? static_cast<double>(counts.decoded_tokens) / static_cast<double>(counts.decoded_alone)
                   : 0.0);
  for (std::size_t depth = 0; depth < drafts.judged.size(); ++depth)
    std::fprintf(stderr, "%s %.1f %% at depth %zu", depth == 0 ? "; drafts accepted" : ",",
                 100 * drafts.rate(depth), depth + 1);
  std::fprintf(stderr, "; cache %zu bytes, %lld per token\n", state.cache_bytes(),
               static_cast<long long>(state.token_bytes()));
}

/// Good, or why the model cannot do what is asked.
inline status check(const request& asked, const model_config& config) {
  if (config.scoring != router_scoring::sigmoid)
    return status{
        asked.model +
        "/config.json: scoring_func is softmax, expected sigmoid: softmax routers can be planned, not run"};
  if (asked.draft > 0 && config.mtp_depth == 0)
    return status{"--draft is " + std::to_string(asked.draft) +
                  ", the model has no MTP module to draft with (num_nextn_predict_layers is 0)"};
  return {};
}

/// Good, or which prompt the model has no positions for.
inline status check(const model_config& config, const std::vector<std::vector<std::int32_t>>& prompts) {
  for (std::size_t i = 0; i < prompts.size(); ++i)
    if (static_cast<index_t>(prompts[i].size()) > config.max_positions)
      return status{"prompt " + std::to_string(i + 1) + " has " + std::to_string(prompts[i].size()) +
                    " tokens, the model has " + std::to_string(config.max_positions) +
                    " positions (max_position_embeddings)"};
  return {};
}

template <precision P, class Place, layout_policy layout>
void answer(const request& asked) {
  checkpoint_reader reader{asked.model};
  model_config config = reader.config();
  const auto demand = [](const status& answer) {
    if (!answer) throw support::usage_error(answer.message());
  };
  demand(check(asked, config));
  const tokenizer words = tokenizer::load(asked.tokenizer.empty() ? asked.model : asked.tokenizer);
  demand(words.check(config.vocab));
  std::vector<std::vector<std::int32_t>> prompts;
  for (const std::string& text : asked.prompts) prompts.push_back(words.encode(text, {.frame = true}));
  demand(check(config, prompts));
  if (asked.draft == 0) config.mtp_depth = 0;  // its weights are not needed

  Place place{asked.threads};
  auto ctx = place.make_context();
  memory_resource& memory = place.memory().work;
  owned<model_weights<P>> weights{place.host(), config};
  owned<routing_state<P>> routing{place.host(), config};
  reader.read(weights, routing.bias, layout::rope);
  weights = place.placed(ctx, std::move(weights));
  routing = place.placed(ctx, std::move(routing));

  index_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, static_cast<index_t>(prompt.size()));
  const index_t room = config.max_positions - longest;
  longest = asked.max_new + asked.draft < room ? longest + asked.max_new + asked.draft : config.max_positions;
  const auto count = static_cast<index_t>(prompts.size()) * asked.samples;
  const index_t batch = asked.batch > 0 ? std::min(asked.batch, count) : std::min(count, index_t{8});
  decoding_state<P, layout> state{memory,
                                  {.model = config,
                                   .sequences = batch,
                                   .longest = longest,
                                   .tokens = asked.cache_tokens,
                                   .drafts = asked.draft > 0}};
  speculative_decoder<P, layout> decoder{ctx,
                                         place.memory(),
                                         config,
                                         weights,
                                         routing.bias,
                                         state.config(),
                                         {.draft_length = asked.draft,
                                          .prefill_tokens = asked.prefill_tokens,
                                          .prefill_form = asked.prefill_form,
                                          .vocab = words.vocab()}};
  path_list paths;
  ctx.scratch = scratch_arena{memory, decoder.scratch_bytes(ctx, state, &paths)};
  if (asked.on_gpu) support::print_paths(stderr, paths);

  generator<P, layout> work{state, decoder};
  stop_conditions stop{.max_tokens = asked.max_new};
  if (!asked.past_end) stop.end_ids = {config.eos_id};
  for (const auto& prompt : prompts)
    for (index_t sample = 0; sample < asked.samples; ++sample)
      work.add({.prompt = prompt,
                .stop = stop,
                .sampling = asked.sampling,
                .seed = asked.seed + static_cast<std::uint64_t>(sample)});
  answers out{asked, words};
  typename Place::decoding recorded;
  const auto step = [&] { return asked.records ? work.step(ctx, recorded) : work.step(ctx); };
  while (work.busy())
    for (const generation_event& event : step())
      if (!out.add(event.request, event.tokens, event.mark, event.reason)) work.cancel(event.request);
  print_figures(work.counts(), decoder.counts(), state);
}

template <precision P, class Place>
void run_at(const request& asked) {
  using layout = typename Place::layout;
  if (asked.fp8_cache)
    answer<P, Place, with_fp8_cache<layout>>(asked);
  else
    answer<P, Place, layout>(asked);
}

}  // namespace generate
