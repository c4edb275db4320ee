// SPDX-License-Identifier: MIT
// Text from a model by whole forward passes over a window: slow, simple, and enough to see what was learned.
#pragma once

#include <dsv3/cpu.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/text/tokenizer.hpp>
#include <dsv3/train/state.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv3_train {

/// Draws text from the main model alone. Weights and bias are read at every draw and must outlive the
/// sampler.
template <dsv3::precision P, dsv3::layout_policy L>
class sampler {
  using index_t = dsv3::index_t;

 public:
  sampler(dsv3::memory_resource& memory, dsv3::model_config config, const dsv3::model_weights<P>& weights,
          dsv3::view<const dsv3::master<P>, 2> bias, index_t window, int threads)
      : model_{without_mtp(config)},
        weights_(weights),
        bias_(bias),
        saved_(memory, model_.activation_config(1, window, 1, dsv3::keep::inputs)),
        rope_(memory, typename dsv3::rope_table<dsv3::accumulator<P>>::config_type{window, config.qk_rope}),
        tokens_(memory, dsv3::batch_tokens::config_type{{.rows = 1, .length = window}, 0}),
        results_(memory, result_config{window, config.vocab}),
        ctx_{.threads = threads} {
    dsv3::op::decoupled_rope<P, L::rope>::table(ctx_, {.rope = config.rope, .table = rope_});
    tokens_.set_sequences();
    ctx_.scratch = dsv3::scratch_arena{memory, dsv3::measure(ctx_, [&](auto& probe) { forward(probe); })};
  }

  /// At least `count` bytes after the prompt, which follows the beginning of a document. The model sees the
  /// last window; special tokens are never drawn.
  std::string draw(const dsv3::tokenizer& words, const std::string& prompt, index_t count, double temperature,
                   std::uint64_t seed) {
    const dsv3::random_stream random = dsv3::random_stream::named(seed, "sample");
    std::vector<std::int32_t> choices, text = words.encode(prompt, {.frame = true});
    for (std::int32_t id = 0; id < words.vocab(); ++id)
      if (!words.is_special(id)) choices.push_back(id);
    const std::size_t window = static_cast<std::size_t>(tokens_.config.step.length);
    const auto row = tokens_.ids[0][0];
    std::string drawn;
    for (std::uint64_t i = 0; static_cast<index_t>(drawn.size()) < count; ++i) {
      const std::size_t seen = std::min(text.size(), window);
      for (index_t t = 0; t < row.size(); ++t)  // what follows the text is not looked at: attention is causal
        row(t) = t < static_cast<index_t>(seen) ? text[text.size() - seen + static_cast<std::size_t>(t)] : -1;
      forward(ctx_);
      text.push_back(choose(choices, static_cast<index_t>(seen) - 1, temperature, random.uniform(i)));
      drawn += words.bytes_of(text.back());
    }
    return drawn;
  }

 private:
  struct result_config {
    index_t window = 0, vocab = 0;
  };
  struct results {
    result_config config;
    dsv3::view<double, 1> losses;                // [2]
    dsv3::view<dsv3::accumulator<P>, 2> logits;  // [window, vocab]

    template <class Visit, class... Self>
    static void each_field(const result_config& c, Visit&& visit, Self&... self) {
      visit("losses", dsv3::shape{2}, self.losses...);
      visit("logits", dsv3::shape{c.window, c.vocab}, self.logits...);
    }
  };

  static dsv3::model_config without_mtp(dsv3::model_config config) {
    config.mtp_depth = 0;
    return config;
  }

  template <class Ctx>
  void forward(Ctx& ctx) {
    const dsv3::token_batch batch = tokens_.micro_batch(0, 1);
    model_.forward(ctx, {.batch = batch,
                         .weights = weights_,
                         .bias = bias_,
                         .rope = rope_,
                         .losses = results_.losses,
                         .logits = results_.logits,
                         .saved = saved_});
  }

  // One of the choices by its probability at this temperature.
  std::int32_t choose(const std::vector<std::int32_t>& choices, index_t position, double temperature,
                      double uniform) const {
    const auto logits = results_.logits[position];
    std::int32_t best = choices.front();
    for (const std::int32_t id : choices)
      if (logits(id) > logits(best)) best = id;
    if (temperature <= 0) return best;
    const auto weight = [&](std::int32_t id) {
      return std::exp(static_cast<double>(logits(id) - logits(best)) / temperature);
    };
    double sum = 0;
    for (const std::int32_t id : choices) sum += weight(id);
    double left = uniform * sum;
    for (const std::int32_t id : choices)
      if ((left -= weight(id)) < 0) return id;
    return best;
  }

  dsv3::deepseek_v3<P, L> model_;
  const dsv3::model_weights<P>& weights_;
  dsv3::view<const dsv3::master<P>, 2> bias_;
  dsv3::owned<dsv3::model_saved<P>> saved_;
  dsv3::owned<dsv3::rope_table<dsv3::accumulator<P>>> rope_;
  dsv3::owned<dsv3::batch_tokens> tokens_;
  dsv3::owned<results> results_;
  dsv3::cpu_context<> ctx_;
};

}  // namespace dsv3_train
