// SPDX-License-Identifier: MIT
// Decoding with the MTP module as its own draft model (report, sections 2.2 and 5.4.3).
#pragma once

#include <dsv3/exec/measure.hpp>
#include <dsv3/exec/pooled_memory.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/infer/decoding_state.hpp>
#include <dsv3/infer/step_rows.hpp>
#include <dsv3/model/deepseek_v3.hpp>
#include <dsv3/op/sample/accept_draft.hpp>
#include <dsv3/op/sample/token_distribution.hpp>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

struct decoder_options {
  index_t draft_length = 0;      // tokens that the MTP module proposes per step; 0: plain decoding
  index_t prefill_tokens = 256;  // of a prompt that one step reads at most
  attention_form prefill_form = attention_form::by_cost;
  index_t vocab = 0;  // ids that may follow, the first ones; 0: all. A model may have more than its tokenizer
};

/// What became of the drafts, by how deep they were. A draft behind a rejected one is never judged.
struct draft_counts {
  std::vector<std::int64_t> judged, accepted;  // [draft_length]

  double rate(std::size_t depth) const {
    return judged[depth] == 0 ? 0 : static_cast<double>(accepted[depth]) / static_cast<double>(judged[depth]);
  }
};

/// Buffers of a decoder.
struct decoder_buffers_config {
  index_t hidden = 0, vocab = 0;
  index_t tokens = 0;     // of the largest step
  index_t sequences = 0;  // at a time
  index_t drafts = 0;     // per sequence
};
template <precision P>
struct decoder_buffers {
  decoder_buffers_config config;
  view<activation<P>, 2> h;         // [tokens, hidden]       what the MTP module reads of the last step
  view<activation<P>, 2> h_pairs;   // [tokens, hidden]       of the tokens that stay
  view<activation<P>, 2> y;         // [tokens, hidden]       what the MTP module made of them
  view<accumulator<P>, 2> logits;   // [predictions, vocab]
  view<std::uint64_t, 2> weights;   // [predictions, vocab]   distributions of a step
  view<std::uint64_t, 1> totals;    // [predictions]
  view<std::uint64_t, 2> q;         // [sequences * drafts, vocab]   what each draft was drawn from, by slot
  view<std::uint64_t, 2> q_totals;  // [sequences * drafts, 1]
  view<std::uint64_t, 2> q_step;    // [sequences * drafts, vocab]   the same, packed for a step
  view<std::uint64_t, 2> q_step_totals;  // [sequences * drafts, 1]

  template <class Visit, class... Self>
  static void each_field(const decoder_buffers_config& c, Visit&& visit, Self&... self) {
    const index_t predictions = c.sequences * (1 + c.drafts), drafts = c.sequences * c.drafts;
    visit("h", shape_if(drafts > 0, {c.tokens, c.hidden}), self.h...);
    visit("h_pairs", shape_if(drafts > 0, {c.tokens, c.hidden}), self.h_pairs...);
    visit("y", shape_if(drafts > 0, {c.tokens, c.hidden}), self.y...);
    visit("logits", shape{predictions, c.vocab}, self.logits...);
    visit("weights", shape{predictions, c.vocab}, self.weights...);
    visit("totals", shape{predictions}, self.totals...);
    visit("q", shape_if(drafts > 0, {drafts, c.vocab}), self.q...);
    visit("q_totals", shape_if(drafts > 0, {drafts, 1}), self.q_totals...);
    visit("q_step", shape_if(drafts > 0, {drafts, c.vocab}), self.q_step...);
    visit("q_step_totals", shape_if(drafts > 0, {drafts, 1}), self.q_step_totals...);
  }
};

/// Prefill reads a prompt in parts, verify runs the main model over the last committed token and its drafts
/// and commits what stays, propose lets the MTP module draft again. What is committed is distributed as if
/// the main model had drawn token by token; greedy, it is the same text up to the rounding of larger steps.
///
///     const index_t chat = state.open(prompt, {.temperature = 0.6}, seed);
///     while (!decoder.prefill(ctx, state, chat)) {}
///     decoder.propose(ctx, state, {{chat}});
///     while (state[chat].tokens.size() < wanted) {
///       decoder.verify(ctx, state, {{chat}});
///       decoder.propose(ctx, state, {{chat}});
///     }
template <precision P, layout_policy L = default_layout>
class speculative_decoder {
 public:
  using state_type = decoding_state<P, L>;
  using slots = std::span<const index_t>;

  /// Weights and bias are read at every step and must outlive the decoder.
  template <execution_context Ctx>
  speculative_decoder(Ctx& ctx, const memory_sources& memory, const model_config& model,
                      const model_weights<P>& weights, view<const master<P>, 2> bias,
                      const decoding_config& state, const decoder_options& options = {})
      : model_{model},
        weights_(weights),
        bias_(bias),
        options_(options),
        arrays_(std::make_unique<pooled_memory>(memory.shared)),
        buffers_(memory.work, buffers_config(state, options)),
        rope_(memory.work, typename rope_table<accumulator<P>>::config_type{state.longest, model.qk_rope}),
        last_(static_cast<std::size_t>(state.sequences)) {
    counts_.judged.assign(static_cast<std::size_t>(options.draft_length), 0);
    counts_.accepted = counts_.judged;
    op::decoupled_rope<P, L::rope>::table(ctx, {.rope = model.rope, .table = rope_});
  }

  const decoder_options& options() const { return options_; }
  const draft_counts& counts() const { return counts_; }

  /// Reads the next part of a prompt. True once it is read whole: its first token is committed then.
  template <execution_context Ctx>
  bool prefill(Ctx& ctx, state_type& state, index_t slot) {
    decoding_sequence& s = state[slot];
    const auto length = static_cast<index_t>(s.tokens.size());
    const index_t first = s.cached, last = std::min(first + options_.prefill_tokens, length);
    const bool whole = last == length;
    state.reserve(ctx, slot, first, last);
    step_rows rows{*arrays_};
    rows.add(s.pages, first, std::span(s.tokens).subspan(at(first), at(last - first)));
    auto heads = array<std::int32_t>();
    if (whole) heads.push_back(static_cast<std::int32_t>(last - first - 1));
    run_main(ctx, state, rows, options_.prefill_form, heads);
    s.cached = last;
    last_[at(slot)] = 0;
    const index_t one[] = {slot};
    if (whole)
      commit(ctx, state, one);
    else if (drafts())
      pair(ctx, state, one, predict::nothing);
    return whole;
  }

  /// One step of the main model for sequences whose prompts are read. Each grows by 1 + its accepted drafts.
  template <execution_context Ctx>
  void verify(Ctx& ctx, state_type& state, slots which) {
    if (which.empty()) return;
    step_rows rows{*arrays_};
    auto heads = array<std::int32_t>();
    for (const index_t slot : which) {
      decoding_sequence& s = state[slot];
      require(check_step(state, slot));
      last_[at(slot)] = rows.tokens();
      std::vector<std::int32_t> ids{s.tokens.back()};
      ids.insert(ids.end(), s.drafts.begin(), s.drafts.end());
      const index_t last = s.cached + static_cast<index_t>(ids.size());
      state.reserve(ctx, slot, s.cached, last);
      rows.add(s.pages, s.cached, ids);
    }
    for (index_t t = 0; t < rows.tokens(); ++t) heads.push_back(static_cast<std::int32_t>(t));
    run_main(ctx, state, rows, attention_form::absorbed, heads);
    commit(ctx, state, which);
  }

  /// The MTP module reads what the last prefill or verify of these sequences committed, and drafts up to
  /// draft_length tokens; none beyond the longest sequence. Follows that step before another one comes.
  /// Without drafting there is nothing to do.
  template <execution_context Ctx>
  void propose(Ctx& ctx, state_type& state, slots which) {
    if (!drafts() || which.empty()) return;
    auto source = array<std::int32_t>();  // in y, of each sequence that gets another draft
    std::vector<index_t> going = pair(ctx, state, which, predict::last, &source);
    while (!going.empty()) {
      draw_drafts(ctx, state, going);
      std::vector<index_t> rest;
      auto rest_source = array<std::int32_t>();
      step_rows rows{*arrays_};
      for (std::size_t i = 0; i < going.size(); ++i) {
        decoding_sequence& s = state[going[i]];
        if (!takes_draft(state, s)) continue;
        const index_t row = s.cached + static_cast<index_t>(s.drafts.size()) - 1;  // not counted in s.drafted
        state.reserve(ctx, going[i], row, row + 1);
        rows.add(s.pages, row, std::span<const std::int32_t>(s.drafts).last(1));
        rest.push_back(going[i]), rest_source.push_back(source[i]);
      }
      going = std::move(rest);
      if (going.empty()) return;
      const auto h = buffers_.h_pairs.rows(0, rows.tokens());
      op::gather_rows<activation<P>>::forward(ctx, {.x = buffers_.y, .rows = whole(rest_source), .y = h});
      source.resize(going.size());
      std::iota(source.begin(), source.end(), 0);
      run_module(ctx, state, rows, attention_form::absorbed, source);
    }
  }

  /// Scratch that is enough for any step, and into `paths` which bodies the steps get.
  template <execution_context Ctx>
  std::size_t scratch_bytes(const Ctx& ctx, const state_type& state, path_list* paths = nullptr) const {
    const index_t longest = state.config().longest, sequences = state.config().sequences;
    const auto step = [&](auto& probe, index_t count, index_t tokens, attention_form form) {
      const std::vector<std::int32_t> pages(at(state.pages_of(longest)));
      const std::vector<std::int32_t> ids(at(std::min(tokens, longest)));
      step_rows rows{*arrays_};
      for (index_t i = 0; i < count; ++i) rows.add(pages, longest - static_cast<index_t>(ids.size()), ids);
      const auto heads = array<std::int32_t>(std::min(rows.tokens(), buffers_.logits.extent(0)));
      run_main(probe, state, rows, form, heads);
      if (drafts()) run_module(probe, state, rows, form, heads);
    };
    const auto steps = [&](auto& probe) {
      // Fewer tokens may take more: what too few sequences leave to threads is cut finer.
      for (index_t part = 1; part <= std::min(options_.prefill_tokens, longest); ++part) {
        if (options_.prefill_form != attention_form::expanded) step(probe, 1, part, attention_form::absorbed);
        if (options_.prefill_form != attention_form::absorbed) step(probe, 1, part, attention_form::expanded);
      }
      for (index_t count = 1; count <= sequences; ++count)
        for (index_t tokens = 1; tokens <= 1 + options_.draft_length; ++tokens)
          step(probe, count, tokens, attention_form::absorbed);
      const decoding_sequence any;
      distribute(probe, std::vector<prediction>(at(buffers_.logits.extent(0)), prediction{&any, 0}));
      const auto drafted = array<std::int32_t>(sequences * options_.draft_length);
      auto offsets = array<std::int32_t>(sequences + 1), next = array<std::int32_t>(sequences),
           accepted = next;
      const auto bits = array<std::uint64_t>(2 * static_cast<index_t>(drafted.size() + next.size()));
      accept(probe, drafted, offsets, bits, accepted, next);
    };
    return measure(ctx, steps, paths);
  }

 private:
  enum class predict { nothing, last };

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  template <class T>
  static view<const T, 1> whole(const shared_array<T>& values) {
    return view<const T, 1>{values.data(), static_cast<index_t>(values.size())};
  }
  /// What a step's operations read, or write for the host.
  template <class T>
  shared_array<T> array(index_t count = 0) const {
    return shared_array<T>(at(count), T{}, *arrays_);
  }
  /// The end of what the backend was told to do; what it read may be used again.
  template <class Ctx>
  void finish(Ctx& ctx) const {
    synchronize(ctx);
    arrays_->settle();
  }
  bool drafts() const { return options_.draft_length > 0; }

  static decoder_buffers_config buffers_config(const decoding_config& c, const decoder_options& o) {
    if (o.draft_length < 0 || o.prefill_tokens < 1)
      raise("decoder: draft_length " + std::to_string(o.draft_length) + " and prefill_tokens " +
            std::to_string(o.prefill_tokens) + ", expected at least 0 and 1");
    if (o.vocab < 0 || o.vocab > c.model.vocab)
      raise("decoder: vocab is " + std::to_string(o.vocab) + ", the model has " +
            std::to_string(c.model.vocab) + " tokens");
    if (o.draft_length > 0 && !c.drafts)
      raise("decoder: draft_length is " + std::to_string(o.draft_length) +
            ", the decoding state was made without room for drafts");
    return {.hidden = c.model.hidden,
            .vocab = o.vocab > 0 ? o.vocab : c.model.vocab,
            .tokens = std::max(std::min(o.prefill_tokens, c.longest), c.sequences * (1 + o.draft_length)),
            .sequences = c.sequences,
            .drafts = o.draft_length};
  }

  // Good, or why there is no step for the sequence.
  static status check_step(const state_type& state, index_t slot) {
    const decoding_sequence& s = state[slot];
    if (s.cached + 1 != static_cast<index_t>(s.tokens.size()))
      return status{"decoder: the prompt of sequence " + std::to_string(slot) + " is not read"};
    if (s.cached == state.config().longest)
      return status{"decoder: sequence " + std::to_string(slot) + " has " + std::to_string(s.cached) +
                    " rows already, as many as it may"};
    return {};
  }

  template <class Ctx>
  void run_main(Ctx& ctx, const state_type& state, step_rows& rows, attention_form form,
                const shared_array<std::int32_t>& heads) const {
    model_.decode(ctx, {.ids = rows.ids(),
                        .tokens = rows.tokens(form),
                        .weights = weights_,
                        .bias = bias_,
                        .rope = rope_,
                        .cache = state.cache(),
                        .h = drafts() ? buffers_.h.rows(0, rows.tokens()) : buffers_.h,
                        .heads = whole(heads),
                        .logits = buffers_.logits.rows(0, static_cast<index_t>(heads.size()))});
  }

  // The MTP module over h_pairs; y gets its state.
  template <class Ctx>
  void run_module(Ctx& ctx, const state_type& state, step_rows& rows, attention_form form,
                  const shared_array<std::int32_t>& heads) const {
    model_.draft(ctx, {.depth = 1,
                       .h = buffers_.h_pairs.rows(0, rows.tokens()),
                       .ids = rows.ids(),
                       .tokens = rows.tokens(form),
                       .weights = weights_,
                       .bias = bias_,
                       .rope = rope_,
                       .cache = state.cache(),
                       .y = buffers_.y.rows(0, rows.tokens()),
                       .heads = whole(heads),
                       .logits = buffers_.logits.rows(0, static_cast<index_t>(heads.size()))});
  }

  // Whether there is room for one more draft, in the step that verifies it and in the sequence.
  bool takes_draft(const state_type& state, const decoding_sequence& s) const {
    const auto drafted = static_cast<index_t>(s.drafts.size());
    return drafted < options_.draft_length && s.cached + 1 + drafted < state.config().longest;
  }

  // The MTP module over the pairs (h_i, token i + 1) that the last step made known. Returns the sequences
  // that take a draft, whose logits come out in this order, and where in y the last pair of each lies.
  template <class Ctx>
  std::vector<index_t> pair(Ctx& ctx, state_type& state, slots which, predict wanted,
                            shared_array<std::int32_t>* last_pairs = nullptr) {
    step_rows rows{*arrays_};
    std::vector<index_t> going;
    auto source = array<std::int32_t>(), heads = array<std::int32_t>();
    for (const index_t slot : which) {
      decoding_sequence& s = state[slot];
      const index_t count = s.cached - s.drafted;
      for (index_t i = 0; i < count; ++i) source.push_back(static_cast<std::int32_t>(last_[at(slot)] + i));
      rows.add(s.pages, s.drafted,
               std::span<const std::int32_t>(s.tokens).subspan(at(s.drafted + 1), at(count)));
      s.drafted = s.cached;
      if (wanted == predict::nothing || !takes_draft(state, s)) continue;
      going.push_back(slot), heads.push_back(static_cast<std::int32_t>(rows.tokens() - 1));
    }
    op::gather_rows<activation<P>>::forward(
        ctx, {.x = buffers_.h, .rows = whole(source), .y = buffers_.h_pairs.rows(0, rows.tokens())});
    const bool after_prefill = which.size() == 1 && rows.tokens() > 1 + options_.draft_length;
    run_module(ctx, state, rows, after_prefill ? options_.prefill_form : attention_form::absorbed, heads);
    if (last_pairs != nullptr) *last_pairs = std::move(heads);
    return going;
  }

  // Distributions of the first `rows` logits, each of a sequence and the tokens after its committed ones.
  struct prediction {
    const decoding_sequence* sequence;
    index_t drafts_before;
  };
  template <class Ctx>
  void distribute(Ctx& ctx, const std::vector<prediction>& rows) const {
    const auto count = static_cast<index_t>(rows.size());
    auto options = array<sampling_options>();
    auto seen = array<std::int32_t>(), seen_offsets = array<std::int32_t>(1);
    // An id of a prompt need not be one that may follow.
    const auto may_follow = [this](std::int32_t id) { return id < buffers_.config.vocab; };
    for (const prediction& row : rows) {
      const decoding_sequence& s = *row.sequence;
      options.push_back(s.sampling);
      if (s.sampling.repetition_penalty != 1) {
        std::copy_if(s.tokens.begin(), s.tokens.end(), std::back_inserter(seen), may_follow);
        seen.insert(seen.end(), s.drafts.begin(), s.drafts.begin() + row.drafts_before);
      }
      seen_offsets.push_back(static_cast<std::int32_t>(seen.size()));
    }
    op::token_distribution<P>::forward(ctx, {.logits = buffers_.logits.rows(0, count),
                                             .options = whole(options),
                                             .seen = whole(seen),
                                             .seen_offsets = whole(seen_offsets),
                                             .weights = buffers_.weights.rows(0, count),
                                             .totals = buffers_.totals.rows(0, count)});
  }

  // Random bits for the token at `position` of a sequence: results depend on no batch.
  static random_stream::words random_words(const decoding_sequence& s, const char* use, index_t position) {
    return random_stream::named(s.seed, use).at(static_cast<std::uint64_t>(position));
  }
  static std::uint64_t joined(std::uint32_t high, std::uint32_t low) {
    return (std::uint64_t{high} << 32) | low;
  }

  // Accepts drafts by the logits of a step whose tokens are the last committed one and the drafts.
  template <class Ctx>
  void commit(Ctx& ctx, state_type& state, slots which) {
    std::vector<prediction> rows;
    auto drafted = array<std::int32_t>(), offsets = array<std::int32_t>(1), q_rows = array<std::int32_t>();
    auto bits = array<std::uint64_t>();
    for (const index_t slot : which) {
      const decoding_sequence& s = state[slot];
      const auto count = static_cast<index_t>(s.drafts.size());
      for (index_t i = 0; i <= count; ++i) {
        rows.push_back({&s, i});
        const auto words = random_words(s, "decode.verify", static_cast<index_t>(s.tokens.size()) + i);
        bits.push_back(joined(words.value[0], words.value[1]));
        bits.push_back(joined(words.value[2], words.value[3]));
        if (i < count) q_rows.push_back(static_cast<std::int32_t>(slot * options_.draft_length + i));
      }
      drafted.insert(drafted.end(), s.drafts.begin(), s.drafts.end());
      offsets.push_back(static_cast<std::int32_t>(drafted.size()));
    }
    distribute(ctx, rows);
    const auto packed = static_cast<index_t>(q_rows.size());
    using gather = op::gather_rows<std::uint64_t>;
    gather::forward(ctx, {.x = buffers_.q, .rows = whole(q_rows), .y = buffers_.q_step.rows(0, packed)});
    gather::forward(
        ctx, {.x = buffers_.q_totals, .rows = whole(q_rows), .y = buffers_.q_step_totals.rows(0, packed)});
    const auto sequences = static_cast<index_t>(which.size());
    auto accepted = array<std::int32_t>(sequences), next = array<std::int32_t>(sequences);
    accept(ctx, drafted, offsets, bits, accepted, next);
    finish(ctx);
    for (std::size_t i = 0; i < which.size(); ++i) take(state, which[i], accepted[i], next[i]);
  }

  template <class Ctx>
  void accept(Ctx& ctx, const shared_array<std::int32_t>& drafted, const shared_array<std::int32_t>& offsets,
              const shared_array<std::uint64_t>& bits, shared_array<std::int32_t>& accepted,
              shared_array<std::int32_t>& next) const {
    const auto sequences = static_cast<index_t>(next.size()), drafts = static_cast<index_t>(drafted.size());
    op::accept_draft::forward(
        ctx, {.target = buffers_.weights.rows(0, sequences + drafts),
              .target_totals = buffers_.totals.rows(0, sequences + drafts),
              .draft = buffers_.q_step.rows(0, drafts),
              .draft_totals = view<const std::uint64_t, 1>{buffers_.q_step_totals.data(), drafts},
              .drafted = whole(drafted),
              .offsets = whole(offsets),
              .bits = whole(bits),
              .accepted = view{accepted.data(), sequences},
              .next = view{next.data(), sequences}});
  }

  // The rows of discarded drafts are forgotten by not counting them.
  void take(state_type& state, index_t slot, index_t accepted, std::int32_t next) {
    decoding_sequence& s = state[slot];
    const bool after_prompt = s.cached == static_cast<index_t>(s.tokens.size());
    for (std::size_t i = 0; i < s.drafts.size() && i <= at(accepted); ++i) {
      ++counts_.judged[i];
      if (i < at(accepted)) ++counts_.accepted[i];
    }
    s.tokens.insert(s.tokens.end(), s.drafts.begin(), s.drafts.begin() + accepted);
    s.tokens.push_back(next);
    s.drafts.clear();
    if (!after_prompt) s.cached += 1 + accepted;
    state.trim(slot);
  }

  // One more draft for each of the sequences, from the first logits.
  template <class Ctx>
  void draw_drafts(Ctx& ctx, state_type& state, slots which) {
    const auto count = static_cast<index_t>(which.size());
    std::vector<prediction> rows;
    auto bits = array<std::uint64_t>();
    for (const index_t slot : which) {
      const decoding_sequence& s = state[slot];
      const auto before = static_cast<index_t>(s.drafts.size());
      const auto words = random_words(s, "decode.draft", static_cast<index_t>(s.tokens.size()) + before);
      rows.push_back({&s, before});
      bits.push_back(joined(words.value[0], words.value[1]));
    }
    distribute(ctx, rows);
    auto drawn = array<std::int32_t>(count);
    op::token_distribution<P>::draw(ctx, {.weights = buffers_.weights.rows(0, count),
                                          .totals = buffers_.totals.rows(0, count),
                                          .bits = whole(bits),
                                          .tokens = view{drawn.data(), count}});
    finish(ctx);
    for (index_t i = 0; i < count; ++i) {  // kept by slot: sequences come and go before the next step
      decoding_sequence& s = state[which[at(i)]];
      const index_t row = which[at(i)] * options_.draft_length + static_cast<index_t>(s.drafts.size());
      using move = op::copy<std::uint64_t, std::uint64_t>;
      move::forward(ctx, {.x = buffers_.weights.rows(i, i + 1), .y = buffers_.q.rows(row, row + 1)});
      move::forward(ctx,
                    {.x = view{buffers_.totals.data() + i, 1, 1}, .y = buffers_.q_totals.rows(row, row + 1)});
      s.drafts.push_back(drawn[at(i)]);
    }
  }

  deepseek_v3<P, L> model_;
  const model_weights<P>& weights_;
  view<const master<P>, 2> bias_;
  decoder_options options_;
  std::unique_ptr<pooled_memory> arrays_;
  owned<decoder_buffers<P>> buffers_;
  owned<rope_table<accumulator<P>>> rope_;
  std::vector<index_t> last_;  // where a sequence's tokens begin in h, by slot
  draft_counts counts_;
};

}  // namespace dsv3::inline DSV3_ABI
