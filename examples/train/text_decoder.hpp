// SPDX-License-Identifier: MIT
// What the model writes while it learns: how many of its own drafts it accepts, and a sample.
#pragma once

#include "trainer.hpp"

#include <dsv3/infer/generate.hpp>
#include <dsv3/text/tokenizer.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dsv3_train {

/// Weights and bias are read at every step and must outlive the decoder.
template <dsv3::precision P, class Place>
class text_decoder {
  using layout = typename Place::layout;

 public:
  text_decoder(Place& place, const run_settings& settings, const dsv3::model_weights<P>& weights,
               dsv3::view<const dsv3::master<P>, 2> bias)
      : ctx_(place.make_context()),
        state_(place.memory().work, state_config(settings)),
        decoder_(ctx_, place.memory(), settings.model, weights, bias, state_.config(), options(settings)) {
    ctx_.scratch = dsv3::scratch_arena{place.memory().work, decoder_.scratch_bytes(ctx_, state_)};
  }

  /// Answers of up to `count` tokens to each prompt, drawn at temperature 1: greedy ones of a small model
  /// soon go in circles, where drafts say little.
  draft_record drafts(const std::vector<std::vector<std::int32_t>>& prompts, index_t count) {
    const dsv3::draft_counts before = decoder_.counts();
    dsv3::generator<P, layout> work{state_, decoder_};
    for (const auto& prompt : prompts)
      work.add({.prompt = prompt, .stop = {.max_tokens = count}, .sampling = {.temperature = 1}});
    while (work.busy()) work.step(ctx_, execute_);
    return record_since(before, work.counts());
  }

  /// At least `bytes` bytes after the prompt, fewer where the model ends its text or has no more positions.
  text_sample sample(const dsv3::tokenizer& words, const std::string& prompt, index_t bytes,
                     double temperature, std::uint64_t seed) {
    const dsv3::draft_counts before = decoder_.counts();
    dsv3::generator<P, layout> work{state_, decoder_};
    const index_t request = work.add({.prompt = words.encode(prompt, {.frame = true}),
                                      .stop = {.end_ids = {state_.config().model.eos_id}},
                                      .sampling = {.temperature = temperature},
                                      .seed = seed});
    std::string text;
    while (work.busy())
      for (const dsv3::generation_event& event : work.step(ctx_, execute_)) {
        text += words.decode(event.tokens, {.special = false});
        if (static_cast<index_t>(text.size()) >= bytes) work.cancel(request);
      }
    return {text, record_since(before, work.counts())};
  }

 private:
  draft_record record_since(const dsv3::draft_counts& before, const dsv3::generation_counts& counts) const {
    draft_record record;
    if (counts.decoded_alone > 0)
      record.tokens_per_step =
          static_cast<double>(counts.decoded_tokens) / static_cast<double>(counts.decoded_alone);
    for (std::size_t depth = 0; depth < before.judged.size(); ++depth) {
      const auto judged = decoder_.counts().judged[depth] - before.judged[depth];
      const auto accepted = decoder_.counts().accepted[depth] - before.accepted[depth];
      record.accepted.push_back(judged > 0 ? static_cast<double>(accepted) / static_cast<double>(judged) : 0);
    }
    return record;
  }

  static dsv3::decoding_config state_config(const run_settings& settings) {
    const auto drafts = options(settings).draft_length;
    const index_t wanted = std::max(settings.shape.length, settings.sample_bytes + 64) + drafts;
    return {.model = settings.model,
            .sequences = draft_prompts,
            .longest = std::min(wanted, settings.model.max_positions),
            .drafts = drafts > 0};
  }
  static dsv3::decoder_options options(const run_settings& settings) {
    return {.draft_length = settings.model.mtp_depth > 0 ? settings.eval_draft : 0,
            .vocab = settings.source.tokenizer.words.vocab()};
  }

  typename Place::context ctx_;
  typename Place::decoding execute_;
  dsv3::decoding_state<P, layout> state_;
  dsv3::speculative_decoder<P, layout> decoder_;
};

}  // namespace dsv3_train
