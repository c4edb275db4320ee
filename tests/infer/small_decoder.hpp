// SPDX-License-Identifier: MIT
// A small model with everything that decoding needs, and the same answers without a cache.
#pragma once

#include <dsv3/cpu.hpp>
#include <dsv3/infer/generate.hpp>

#include <model/small_model.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace support {

/// Weights that make attention and routing matter: logits are spread, not flat.
template <dsv3::precision P>
struct decoding_model {
  dsv3::host_memory memory;
  dsv3::model_config config;
  dsv3::owned<dsv3::model_weights<P>> weights;
  dsv3::owned<dsv3::routing_state<P>> routing;

  explicit decoding_model(const dsv3::model_config& c, std::uint64_t seed = 1, double spread = 0.4)
      : config(c), weights(memory, c), routing(memory, c) {
    fill_with_numbers(weights, seed);
    fill_with_numbers(routing, seed + 1);
    dsv3::for_each_field(
        [&](const std::string&, const dsv3::shape& s, auto& field) {
          using element = typename std::remove_reference_t<decltype(field)>::element;
          for (dsv3::index_t i = 0; i < s.elements(); ++i)
            field.data()[i] = element(static_cast<float>(field.data()[i]) * static_cast<float>(spread));
        },
        static_cast<dsv3::model_weights<P>&>(weights));
  }
};

/// A vocabulary of eight and two blocks: for many draws.
inline dsv3::model_config eight_token_model() {
  return {.vocab = 8,
          .hidden = 8,
          .layers = 1,
          .dense_layers = 1,
          .mtp_depth = 1,
          .dense_inner = 8,
          .heads = 1,
          .q_rank = 0,
          .kv_rank = 4,
          .qk_nope = 4,
          .qk_rope = 2,
          .v_dim = 4,
          .expert_inner = 4,
          .experts = 2,
          .top_k = 1,
          .rope = {},
          .max_positions = 64};
}

/// Makes the MTP module guess well, if not always: mostly by the token, as the main model does.
template <dsv3::precision P>
void teach_drafts(decoding_model<P>& m, double certainty) {
  const dsv3::index_t hidden = m.config.hidden;
  const auto scaled = [](dsv3::weight<P> w, double factor) {
    return dsv3::weight<P>(static_cast<float>(factor * static_cast<double>(w)));
  };
  const auto& embedding = m.weights.embedding;
  for (dsv3::index_t i = 0; i < embedding.size(); ++i)
    embedding.data()[i] = scaled(embedding.data()[i], certainty);
  const auto& mtp = m.weights.mtp.front();
  for (dsv3::index_t i = 0; i < hidden; ++i) {
    for (dsv3::index_t j = 0; j < 2 * hidden; ++j)
      mtp.w_eh(i, j) = i == j ? scaled(dsv3::weight<P>(1.0f), certainty) : scaled(mtp.w_eh(i, j), 0.1);
    m.weights.g_final(i) = mtp.g_head(i) = mtp.g_embedding(i) = 1;
  }
}

/// State, decoder and context for one model.
template <dsv3::precision P, dsv3::layout_policy L = dsv3::compact_layout>
struct decoding_setup {
  decoding_model<P>& model;
  dsv3::cpu_context<> ctx;
  dsv3::decoding_state<P, L> state;
  dsv3::speculative_decoder<P, L> decoder;

  decoding_setup(decoding_model<P>& m, dsv3::decoding_config c, const dsv3::decoder_options& options = {},
                 int threads = 2)
      : model(m),
        ctx{.threads = threads},
        state(m.memory, completed(m, c, options)),
        decoder(ctx, m.memory, m.config, m.weights, m.routing.bias, state.config(), options) {
    const std::size_t bytes = decoder.scratch_bytes(ctx, state);
    ctx.scratch = dsv3::scratch_arena{m.memory, bytes};
  }

  static dsv3::decoding_config completed(const decoding_model<P>& m, dsv3::decoding_config c,
                                         const dsv3::decoder_options& options) {
    c.model = m.config;
    c.drafts = options.draft_length > 0;
    return c;
  }

  /// The prompt and `count` tokens after it.
  std::vector<std::int32_t> generate(std::vector<std::int32_t> prompt, std::size_t count,
                                     const dsv3::sampling_options& sampling = {}, std::uint64_t seed = 0) {
    const std::size_t wanted = prompt.size() + count;
    const dsv3::index_t slot = state.open(std::move(prompt), sampling, seed);
    const dsv3::index_t one[] = {slot};
    while (!decoder.prefill(ctx, state, slot)) {
    }
    decoder.propose(ctx, state, one);
    while (state[slot].tokens.size() < wanted) {
      decoder.verify(ctx, state, one);
      decoder.propose(ctx, state, one);
    }
    std::vector<std::int32_t> tokens = state[slot].tokens;
    tokens.resize(wanted);
    state.close(slot);
    return tokens;
  }
};

/// Logits of every position by the training forward, which knows no cache. [tokens, vocab]
template <dsv3::precision P>
std::vector<dsv3::accumulator<P>> full_logits(decoding_model<P>& m, const std::vector<std::int32_t>& tokens) {
  using namespace dsv3;
  const auto length = static_cast<index_t>(tokens.size());
  model_config config = m.config;
  config.mtp_depth = 0;
  const deepseek_v3<P, compact_layout> model{config};
  owned<model_saved<P>> saved{m.memory, model.activation_config(1, length, 1, keep::inputs)};
  owned<rope_table<accumulator<P>>> rope{
      m.memory, typename rope_table<accumulator<P>>::config_type{length, config.qk_rope}};
  std::vector<std::int32_t> offsets{0, static_cast<std::int32_t>(length)}, positions(tokens.size());
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int32_t>(i);
  const std::vector<std::int32_t> labels(tokens.size(), -1);
  const token_batch batch{.inputs = view<const std::int32_t, 2>{tokens.data(), 1, length},
                          .labels = view<const std::int32_t, 2>{labels.data(), 1, length},
                          .sequence = {view<const std::int32_t, 1>{offsets.data(), 2},
                                       view<const std::int32_t, 1>{positions.data(), length}, length},
                          .target_counts = {0}};
  std::vector<double> losses(2);
  std::vector<accumulator<P>> logits(static_cast<std::size_t>(length * config.vocab));
  cpu_context<> ctx{.threads = 2};
  op::decoupled_rope<P, rope_layout::interleaved>::table(ctx, {.rope = config.rope, .table = rope});
  const auto work = [&](auto& at) {
    model.forward(at, {.batch = batch,
                       .weights = m.weights,
                       .bias = m.routing.bias,
                       .rope = rope,
                       .losses = view{losses.data(), 2},
                       .logits = view{logits.data(), length, config.vocab},
                       .saved = saved});
  };
  ctx.scratch = scratch_arena{m.memory, measure(ctx, work)};
  work(ctx);
  return logits;
}

/// Logits of every position, [tokens, vocab]; of the MTP module those that know the token one further on.
template <dsv3::precision P>
struct position_logits {
  std::vector<dsv3::accumulator<P>> main, mtp;
};

/// The same by decoding: a step of `first` tokens, then steps of `later` tokens each, every step with exactly
/// the scratch that it measures.
template <dsv3::precision P, dsv3::layout_policy L = dsv3::compact_layout>
position_logits<P> stepwise_logits(decoding_model<P>& m, const std::vector<std::int32_t>& tokens,
                                   dsv3::index_t first, dsv3::index_t later,
                                   dsv3::attention_form form = dsv3::attention_form::by_cost,
                                   int threads = 2) {
  using namespace dsv3;
  const auto length = static_cast<index_t>(tokens.size()), hidden = m.config.hidden, vocab = m.config.vocab;
  const bool drafts = m.config.mtp_depth > 0;
  const deepseek_v3<P, L> model{m.config};
  cpu_context<> ctx{.threads = threads};
  decoding_state<P, L> state{m.memory, {.model = m.config, .longest = length, .drafts = drafts}};
  const index_t slot = state.open(tokens);
  owned<rope_table<accumulator<P>>> rope{
      m.memory, typename rope_table<accumulator<P>>::config_type{length, m.config.qk_rope}};
  op::decoupled_rope<P, L::rope>::table(ctx, {.rope = m.config.rope, .table = rope});
  position_logits<P> result;
  result.main.resize(static_cast<std::size_t>(length * vocab));
  if (drafts) result.mtp.resize(static_cast<std::size_t>((length - 1) * vocab));
  std::vector<activation<P>> h(static_cast<std::size_t>(length * hidden)), y(h);
  std::vector<std::int32_t> heads;
  for (std::int32_t i = 0; i < length; ++i) heads.push_back(i);
  const std::span ids(tokens);
  for (index_t begin = 0, end = first; begin < length; begin = end, end += later) {
    end = std::min(end, length);
    const index_t count = end - begin, pairs = std::min(end, length - 1) - begin;
    state.reserve(ctx, slot, begin, end);
    step_rows rows{m.memory}, pair_rows{m.memory};
    rows.add(state[slot].pages, begin,
             ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)));
    pair_rows.add(state[slot].pages, begin,
                  ids.subspan(static_cast<std::size_t>(begin + 1), static_cast<std::size_t>(pairs)));
    const auto work = [&](auto& at) {
      model.decode(at, {.ids = rows.ids(),
                        .tokens = rows.tokens(form),
                        .weights = m.weights,
                        .bias = m.routing.bias,
                        .rope = rope,
                        .cache = state.cache(),
                        .h = view{h.data(), count, hidden},
                        .heads = view<const std::int32_t, 1>{heads.data(), count},
                        .logits = view{result.main.data() + begin * vocab, count, vocab}});
      if (!drafts || pairs == 0) return;
      model.draft(at, {.depth = 1,
                       .h = view<const activation<P>, 2>{h.data(), pairs, hidden},
                       .ids = pair_rows.ids(),
                       .tokens = pair_rows.tokens(form),
                       .weights = m.weights,
                       .bias = m.routing.bias,
                       .rope = rope,
                       .cache = state.cache(),
                       .y = view{y.data(), pairs, hidden},
                       .heads = view<const std::int32_t, 1>{heads.data(), pairs},
                       .logits = view{result.mtp.data() + begin * vocab, pairs, vocab}});
    };
    ctx.scratch = scratch_arena{m.memory, measure(ctx, work)};
    work(ctx);
  }
  return result;
}

/// The largest difference as a share of the largest magnitude; infinity where sizes differ or a NaN is.
template <class Found, class Expected>
double worst_difference(const Found& found, const Expected& expected) {
  if (found.size() != expected.size() || found.empty()) return INFINITY;
  double furthest = 0, largest = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double a = static_cast<double>(found[i]), b = static_cast<double>(expected[i]);
    if (!(std::fabs(a - b) < INFINITY)) return INFINITY;
    furthest = std::max(furthest, std::fabs(a - b)), largest = std::max(largest, std::fabs(b));
  }
  return furthest / largest;
}

/// Greedy continuation by whole forward passes.
template <dsv3::precision P>
std::vector<std::int32_t> full_greedy(decoding_model<P>& m, std::vector<std::int32_t> tokens,
                                      std::size_t count) {
  const auto vocab = static_cast<std::size_t>(m.config.vocab);
  for (std::size_t i = 0; i < count; ++i) {
    const auto logits = full_logits(m, tokens);
    const auto last = logits.end() - static_cast<std::ptrdiff_t>(vocab);
    tokens.push_back(static_cast<std::int32_t>(std::max_element(last, logits.end()) - last));
  }
  return tokens;
}

}  // namespace support
