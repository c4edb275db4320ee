// SPDX-License-Identifier: MIT
// Decoding with the MTP module as its own draft model (report, sections 2.2 and 5.4.3).
#pragma once

#include <dsv3/exec/directly.hpp>
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
///
/// verify and propose hand what they tell the backend to `execute`, as train_step does: steps of one shape
/// have one key, so cuda::recorded_shapes launches each as one graph.
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
        main_step_(*arrays_, most_pages(state)),
        module_step_(*arrays_, most_pages(state)),
        last_(static_cast<std::size_t>(state.sequences)) {
    for (step_arrays* step : {&main_step_, &module_step_})
      step->reserve(state.sequences, state.sequences * (1 + options.draft_length));
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
    step_arrays step{*arrays_};  // one that waits for the backend: parts of a prompt follow each other
    step.rows.add(s.pages, first, std::span(s.tokens).subspan(at(first), at(last - first)));
    if (whole) step.heads.push_back(static_cast<std::int32_t>(last - first - 1));
    run_main(ctx, state, step, step.rows.tokens(options_.prefill_form));
    s.cached = last;
    last_[at(slot)] = 0;
    const index_t one[] = {slot};
    if (whole) {
      prepare_commit(state, one, step);
      judge(ctx, step);
      commit(ctx, state, one, step);
    } else if (drafts()) {
      step_arrays pairs{*arrays_};
      pair(state, one, predict::nothing, pairs);
      run_module(ctx, state, pairs, pairs.rows.tokens(form_of(one, pairs)), buffers_.h);
    }
    return whole;
  }

  /// One step of the main model for sequences whose prompts are read. Each grows by 1 + its accepted drafts.
  template <execution_context Ctx, class Execute = directly>
  void verify(Ctx& ctx, state_type& state, slots which, Execute&& execute = {}) {
    if (which.empty()) return;
    step_arrays& step = main_step_;
    step.clear();
    for (const index_t slot : which) {
      decoding_sequence& s = state[slot];
      require(check_step(state, slot));
      last_[at(slot)] = step.rows.tokens();
      std::vector<std::int32_t> ids{s.tokens.back()};
      ids.insert(ids.end(), s.drafts.begin(), s.drafts.end());
      const index_t last = s.cached + static_cast<index_t>(ids.size());
      state.reserve(ctx, slot, s.cached, last);
      step.rows.add(s.pages, s.cached, ids);
    }
    for (index_t t = 0; t < step.rows.tokens(); ++t) step.heads.push_back(static_cast<std::int32_t>(t));
    prepare_commit(state, which, step);
    const cached_tokens tokens = step.rows.tokens(attention_form::absorbed);
    perform(ctx, state, step, piece::verification, execute, [&](auto& to) {
      run_main(to, state, step, tokens);
      judge(to, step);
    });
    commit(ctx, state, which, step);
  }

  /// The MTP module reads what the last prefill or verify of these sequences committed, and drafts up to
  /// draft_length tokens; none beyond the longest sequence. Follows that step before another one comes.
  /// Without drafting there is nothing to do.
  template <execution_context Ctx, class Execute = directly>
  void propose(Ctx& ctx, state_type& state, slots which, Execute&& execute = {}) {
    if (!drafts() || which.empty()) return;
    step_arrays& step = module_step_;
    step.clear();
    std::vector<index_t> going = pair(state, which, predict::last, step);
    prepare_draw(state, going, step);
    const cached_tokens tokens = step.rows.tokens(form_of(which, step));
    const auto work = [&](auto& to) {
      run_module(to, state, step, tokens, buffers_.h);
      draw(to, step);
    };
    if (tokens.form == attention_form::absorbed)
      perform(ctx, state, step, piece::pairs, execute, work);
    else
      work(ctx);
    while (!going.empty()) {
      take_drafts(ctx, state, going, step);
      const std::vector<std::int32_t> last_pairs(step.heads.begin(), step.heads.end());
      step.clear();
      std::vector<index_t> rest;
      for (std::size_t i = 0; i < going.size(); ++i) {
        decoding_sequence& s = state[going[i]];
        if (!takes_draft(state, s)) continue;
        const index_t row = s.cached + static_cast<index_t>(s.drafts.size()) - 1;  // not counted in s.drafted
        state.reserve(ctx, going[i], row, row + 1);
        step.rows.add(s.pages, row, std::span<const std::int32_t>(s.drafts).last(1));
        step.source.push_back(last_pairs[i]);
        step.heads.push_back(static_cast<std::int32_t>(rest.size()));
        rest.push_back(going[i]);
      }
      going = std::move(rest);
      if (going.empty()) return;
      prepare_draw(state, going, step);
      const cached_tokens next = step.rows.tokens(attention_form::absorbed);
      perform(ctx, state, step, piece::draft, execute, [&](auto& to) {
        run_module(to, state, step, next, buffers_.y);
        draw(to, step);
      });
    }
  }

  /// Scratch that is enough for any step, and into `paths` which bodies the steps get.
  template <execution_context Ctx>
  std::size_t scratch_bytes(const Ctx& ctx, const state_type& state, path_list* paths = nullptr) const {
    const index_t longest = state.config().longest, sequences = state.config().sequences;
    const auto step = [&](auto& probe, index_t count, index_t tokens, attention_form form) {
      const std::vector<std::int32_t> pages(at(state.pages_of(longest)));
      const std::vector<std::int32_t> ids(at(std::min(tokens, longest)));
      step_arrays of_step{*arrays_};
      for (index_t i = 0; i < count; ++i)
        of_step.rows.add(pages, longest - static_cast<index_t>(ids.size()), ids);
      of_step.heads.resize(at(std::min(of_step.rows.tokens(), buffers_.logits.extent(0))));
      of_step.source.resize(at(of_step.rows.tokens()));
      run_main(probe, state, of_step, of_step.rows.tokens(form));
      if (drafts()) run_module(probe, state, of_step, of_step.rows.tokens(form), buffers_.h);
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
      step_arrays last{*arrays_};
      const std::size_t predictions = at(buffers_.logits.extent(0)), drafts = predictions - at(sequences);
      last.options.resize(predictions), last.bits.resize(2 * predictions);
      last.drafted.resize(drafts), last.draft_rows.resize(drafts);
      last.draft_offsets.resize(at(sequences + 1));
      last.accepted.resize(at(sequences)), last.next.resize(at(sequences));
      judge(probe, last);
      last.options.resize(at(sequences)), last.bits.resize(at(sequences));
      if (options_.draft_length > 0) draw(probe, last);
    };
    return measure(ctx, steps, paths);
  }

 private:
  enum class predict { nothing, last };
  // What is executed as one: arrays of one shape do not say which.
  enum class piece { verification, pairs, draft };

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  template <class T>
  static view<const T, 1> whole(const shared_array<T>& values) {
    return view<const T, 1>{values.data(), static_cast<index_t>(values.size())};
  }
  /// The end of what the backend was told to do; what it read may be used again.
  template <class Ctx>
  void finish(Ctx& ctx) const {
    synchronize(ctx);
    arrays_->settle();
  }
  bool drafts() const { return options_.draft_length > 0; }

  static index_t most_pages(const decoding_config& c) {
    return L::cache::page_rows > 0 ? ceil_div(c.longest, index_t{L::cache::page_rows}) : 1;
  }

  // A list of what was seen is longer with every token: no step with one is like another.
  template <class Ctx, class Execute, class Work>
  static void perform(Ctx& ctx, const state_type& state, const step_arrays& step, piece which,
                      Execute&& execute, Work&& work) {
    if (!step.seen.empty()) return work(ctx);
    std::vector<double> key = step.key();
    key.push_back(static_cast<double>(which));
    key.push_back(static_cast<double>(reinterpret_cast<std::uintptr_t>(state.cache().rows.data())));
    execute(ctx, key, work);
  }

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
  void run_main(Ctx& ctx, const state_type& state, const step_arrays& step,
                const cached_tokens& tokens) const {
    const step_rows& rows = step.rows;
    model_.decode(ctx, {.ids = rows.ids(),
                        .tokens = tokens,
                        .weights = weights_,
                        .bias = bias_,
                        .rope = rope_,
                        .cache = state.cache(),
                        .h = drafts() ? buffers_.h.rows(0, rows.tokens()) : buffers_.h,
                        .heads = whole(step.heads),
                        .logits = buffers_.logits.rows(0, static_cast<index_t>(step.heads.size()))});
  }

  // The MTP module over the source's states among `h`; y gets its own.
  template <class Ctx>
  void run_module(Ctx& ctx, const state_type& state, const step_arrays& step, const cached_tokens& tokens,
                  const view<const activation<P>, 2>& h) const {
    const step_rows& rows = step.rows;
    op::gather_rows<activation<P>>::forward(
        ctx, {.x = h, .rows = whole(step.source), .y = buffers_.h_pairs.rows(0, rows.tokens())});
    model_.draft(ctx, {.depth = 1,
                       .h = buffers_.h_pairs.rows(0, rows.tokens()),
                       .ids = rows.ids(),
                       .tokens = tokens,
                       .weights = weights_,
                       .bias = bias_,
                       .rope = rope_,
                       .cache = state.cache(),
                       .y = buffers_.y.rows(0, rows.tokens()),
                       .heads = whole(step.heads),
                       .logits = buffers_.logits.rows(0, static_cast<index_t>(step.heads.size()))});
  }

  // Whether there is room for one more draft, in the step that verifies it and in the sequence.
  bool takes_draft(const state_type& state, const decoding_sequence& s) const {
    const auto drafted = static_cast<index_t>(s.drafts.size());
    return drafted < options_.draft_length && s.cached + 1 + drafted < state.config().longest;
  }

  // The pairs (h_i, token i + 1) that the last step made known. Returns the sequences that take a draft,
  // whose logits come out in this order; the step's heads are the last pair of each.
  std::vector<index_t> pair(state_type& state, slots which, predict wanted, step_arrays& step) {
    step_rows& rows = step.rows;
    std::vector<index_t> going;
    for (const index_t slot : which) {
      decoding_sequence& s = state[slot];
      const index_t count = s.cached - s.drafted;
      for (index_t i = 0; i < count; ++i)
        step.source.push_back(static_cast<std::int32_t>(last_[at(slot)] + i));
      rows.add(s.pages, s.drafted,
               std::span<const std::int32_t>(s.tokens).subspan(at(s.drafted + 1), at(count)));
      s.drafted = s.cached;
      if (wanted == predict::nothing || !takes_draft(state, s)) continue;
      going.push_back(slot), step.heads.push_back(static_cast<std::int32_t>(rows.tokens() - 1));
    }
    return going;
  }
  // Of pairs: those of a part of a prompt are many.
  attention_form form_of(slots which, const step_arrays& step) const {
    const bool of_prompt = which.size() == 1 && step.rows.tokens() > 1 + options_.draft_length;
    return of_prompt ? options_.prefill_form : attention_form::absorbed;
  }

  // The next prediction is of a sequence and `drafts_before` tokens after its committed ones.
  void prepare_prediction(const decoding_sequence& s, index_t drafts_before, step_arrays& step) const {
    // An id of a prompt need not be one that may follow.
    const auto may_follow = [this](std::int32_t id) { return id < buffers_.config.vocab; };
    if (step.seen_offsets.empty()) step.seen_offsets.push_back(0);
    step.options.push_back(s.sampling);
    if (s.sampling.repetition_penalty != 1) {
      std::copy_if(s.tokens.begin(), s.tokens.end(), std::back_inserter(step.seen), may_follow);
      step.seen.insert(step.seen.end(), s.drafts.begin(), s.drafts.begin() + drafts_before);
    }
    step.seen_offsets.push_back(static_cast<std::int32_t>(step.seen.size()));
  }
  // Distributions of the step's predictions.
  template <class Ctx>
  void distribute(Ctx& ctx, const step_arrays& step) const {
    const auto count = static_cast<index_t>(step.options.size());
    op::token_distribution<P>::forward(ctx, {.logits = buffers_.logits.rows(0, count),
                                             .options = whole(step.options),
                                             .seen = whole(step.seen),
                                             .seen_offsets = whole(step.seen_offsets),
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

  // A step whose tokens are the last committed one and the drafts accepts drafts by its logits.
  void prepare_commit(const state_type& state, slots which, step_arrays& step) const {
    step.draft_offsets.push_back(0);
    for (const index_t slot : which) {
      const decoding_sequence& s = state[slot];
      const auto count = static_cast<index_t>(s.drafts.size());
      for (index_t i = 0; i <= count; ++i) {
        prepare_prediction(s, i, step);
        const auto words = random_words(s, "decode.verify", static_cast<index_t>(s.tokens.size()) + i);
        step.bits.push_back(joined(words.value[0], words.value[1]));
        step.bits.push_back(joined(words.value[2], words.value[3]));
        if (i < count) step.draft_rows.push_back(static_cast<std::int32_t>(slot * options_.draft_length + i));
      }
      step.drafted.insert(step.drafted.end(), s.drafts.begin(), s.drafts.end());
      step.draft_offsets.push_back(static_cast<std::int32_t>(step.drafted.size()));
    }
    step.accepted.assign(which.size(), 0), step.next.assign(which.size(), 0);
  }
  template <class Ctx>
  void judge(Ctx& ctx, step_arrays& step) const {
    distribute(ctx, step);
    const auto sequences = static_cast<index_t>(step.next.size());
    const auto drafts = static_cast<index_t>(step.drafted.size());
    const auto rows = whole(step.draft_rows);
    using gather = op::gather_rows<std::uint64_t>;
    gather::forward(ctx, {.x = buffers_.q, .rows = rows, .y = buffers_.q_step.rows(0, drafts)});
    gather::forward(ctx, {.x = buffers_.q_totals, .rows = rows, .y = buffers_.q_step_totals.rows(0, drafts)});
    op::accept_draft::forward(
        ctx, {.target = buffers_.weights.rows(0, sequences + drafts),
              .target_totals = buffers_.totals.rows(0, sequences + drafts),
              .draft = buffers_.q_step.rows(0, drafts),
              .draft_totals = view<const std::uint64_t, 1>{buffers_.q_step_totals.data(), drafts},
              .drafted = whole(step.drafted),
              .offsets = whole(step.draft_offsets),
              .bits = whole(step.bits),
              .accepted = view{step.accepted.data(), sequences},
              .next = view{step.next.data(), sequences}});
  }
  template <class Ctx>
  void commit(Ctx& ctx, state_type& state, slots which, const step_arrays& step) {
    finish(ctx);
    for (std::size_t i = 0; i < which.size(); ++i) take(state, which[i], step.accepted[i], step.next[i]);
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
  void prepare_draw(const state_type& state, slots which, step_arrays& step) const {
    for (const index_t slot : which) {
      const decoding_sequence& s = state[slot];
      const auto before = static_cast<index_t>(s.drafts.size());
      const auto words = random_words(s, "decode.draft", static_cast<index_t>(s.tokens.size()) + before);
      prepare_prediction(s, before, step);
      step.bits.push_back(joined(words.value[0], words.value[1]));
    }
    step.next.assign(which.size(), 0);
  }
  template <class Ctx>
  void draw(Ctx& ctx, step_arrays& step) const {
    const auto count = static_cast<index_t>(step.next.size());
    if (count == 0) return;
    distribute(ctx, step);
    op::token_distribution<P>::draw(ctx, {.weights = buffers_.weights.rows(0, count),
                                          .totals = buffers_.totals.rows(0, count),
                                          .bits = whole(step.bits),
                                          .tokens = view{step.next.data(), count}});
  }
  template <class Ctx>
  void take_drafts(Ctx& ctx, state_type& state, slots which, const step_arrays& step) {
    finish(ctx);
    const auto count = static_cast<index_t>(which.size());
    for (index_t i = 0; i < count; ++i) {  // kept by slot: sequences come and go before the next step
      decoding_sequence& s = state[which[at(i)]];
      const index_t row = which[at(i)] * options_.draft_length + static_cast<index_t>(s.drafts.size());
      using move = op::copy<std::uint64_t, std::uint64_t>;
      move::forward(ctx, {.x = buffers_.weights.rows(i, i + 1), .y = buffers_.q.rows(row, row + 1)});
      move::forward(ctx,
                    {.x = view{buffers_.totals.data() + i, 1, 1}, .y = buffers_.q_totals.rows(row, row + 1)});
      s.drafts.push_back(step.next[at(i)]);
    }
  }

  deepseek_v3<P, L> model_;
  const model_weights<P>& weights_;
  view<const master<P>, 2> bias_;
  decoder_options options_;
  std::unique_ptr<pooled_memory> arrays_;
  owned<decoder_buffers<P>> buffers_;
  owned<rope_table<accumulator<P>>> rope_;
  step_arrays main_step_, module_step_;
  std::vector<index_t> last_;  // where a sequence's tokens begin in h, by slot
  draft_counts counts_;
};

}  // namespace dsv3::inline DSV3_ABI
