// SPDX-License-Identifier: MIT
// Decoding is forward, drafting changes no greedy text and leaves nothing behind in the caches.
#include <infer/small_decoder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

using namespace dsv3;

namespace {

struct short_pages : compact_layout {
  using cache = cache_layout::paged<4>;
};
struct one_page : compact_layout {
  using cache = cache_layout::contiguous;
};

std::vector<std::int32_t> random_tokens(std::size_t count, std::uint64_t seed, std::int32_t vocab = 24) {
  const random_stream random{seed, 3};
  std::vector<std::int32_t> tokens;
  for (std::size_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocab), i)));
  return tokens;
}

/// Prompts of different lengths go on by `count` tokens, as many beside each other as the state has room for.
template <class Setup>
std::vector<std::vector<std::int32_t>> continue_all(Setup& setup,
                                                    const std::vector<std::vector<std::int32_t>>& prompts,
                                                    std::size_t count) {
  std::vector<std::vector<std::int32_t>> result;
  const auto width = static_cast<std::size_t>(setup.state.config().sequences);
  for (std::size_t begin = 0; begin < prompts.size(); begin += width) {
    std::vector<index_t> slots;
    for (std::size_t i = begin; i < std::min(begin + width, prompts.size()); ++i) {
      slots.push_back(setup.state.open(prompts[i]));
      while (!setup.decoder.prefill(setup.ctx, setup.state, slots.back())) {
      }
      setup.decoder.propose(setup.ctx, setup.state, {&slots.back(), 1});
    }
    const auto wanted = [&](std::size_t i) { return prompts[begin + i].size() + count; };
    for (std::vector<index_t> going = slots; !going.empty();) {
      setup.decoder.verify(setup.ctx, setup.state, going);
      std::vector<index_t> rest;
      for (std::size_t i = 0; i < slots.size(); ++i)
        if (setup.state[slots[i]].tokens.size() < wanted(i)) rest.push_back(slots[i]);
      setup.decoder.propose(setup.ctx, setup.state, rest);
      going = std::move(rest);
    }
    for (std::size_t i = 0; i < slots.size(); ++i) {
      result.push_back(setup.state[slots[i]].tokens);
      result.back().resize(wanted(i));
    }
    for (const index_t slot : slots) setup.state.close(slot);
  }
  return result;
}

/// The rows in use of one cache, and of the same tokens in another, differ by no more than rounding.
template <class State>
double row_difference(const State& a, index_t slot_a, const State& b, index_t slot_b, index_t block,
                      index_t rows) {
  std::vector<double> found, expected;
  const auto collect = [&](const State& state, index_t slot, std::vector<double>& values) {
    for (index_t j = 0; j < rows; ++j) {
      const auto page = state[slot].pages[static_cast<std::size_t>(j / state.page_rows())];
      const auto row = state.cache().rows[block][page][j % state.page_rows()];
      values.insert(values.end(), row.data(), row.data() + row.extent(0));
    }
  };
  collect(a, slot_a, found), collect(b, slot_b, expected);
  return support::worst_difference(found, expected);
}

}  // namespace

TEST_CASE_TEMPLATE("logits of any steps, forms and pages are those of forward", P, fp64_reference, fp32) {
  const double tolerance = std::is_same_v<P, fp32> ? 1e-5 : 1e-12;
  support::decoding_model<P> model{support::small_model()};
  const auto tokens = random_tokens(30, 5);
  const auto expected = support::full_logits(model, tokens);
  for (const attention_form form :
       {attention_form::by_cost, attention_form::absorbed, attention_form::expanded})
    for (const index_t first : {1, 6, 30})
      for (const index_t later : {1, 2, 8}) {
        CAPTURE(static_cast<int>(form));
        CAPTURE(first);
        CAPTURE(later);
        const auto paged = support::stepwise_logits<P, short_pages>(model, tokens, first, later, form);
        CHECK(support::worst_difference(paged.main, expected) <= tolerance);
        const auto whole = support::stepwise_logits<P, one_page>(model, tokens, first, later, form);
        CHECK(paged.main == whole.main);
        CHECK(paged.mtp == whole.mtp);
      }
}

TEST_CASE("greedy decoding is greedy forward") {
  support::decoding_model<fp64_reference> model{support::small_model()};
  const std::vector<std::int32_t> prompt{3, 9, 1, 7, 7, 20, 4};
  const auto expected = support::full_greedy(model, prompt, 20);
  for (const index_t drafts : {0, 1, 2, 3})
    for (const index_t chunk : {1, 3, 64})
      for (const attention_form form : {attention_form::absorbed, attention_form::expanded})
        for (const int threads : {1, 2, 3}) {
          CAPTURE(drafts);
          CAPTURE(chunk);
          CAPTURE(threads);
          support::decoding_setup<fp64_reference, short_pages> setup{
              model,
              {.sequences = 2, .longest = 40},
              {.draft_length = drafts, .prefill_tokens = chunk, .prefill_form = form},
              threads};
          CHECK(setup.generate(prompt, 20) == expected);
          CHECK(setup.state.pool().free_pages() == setup.state.pool().pages());
        }
}

TEST_CASE("drafts change no greedy text: a thousand prompts") {
  using P = fp64_reference;
  support::decoding_model<P> model{support::small_model()};
  support::teach_drafts(model, 3);
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::uint64_t i = 0; i < 1000; ++i) prompts.push_back(random_tokens(1 + i % 9, 100 + i));
  const decoding_config room{.sequences = 50, .longest = 24};
  support::decoding_setup<P> plain{model, room};
  const auto expected = continue_all(plain, prompts, 10);
  for (std::size_t i = 0; i < prompts.size(); i += 100)
    CHECK(expected[i] == support::full_greedy(model, prompts[i], 10));
  for (const index_t drafts : {1, 2, 3}) {
    CAPTURE(drafts);
    support::decoding_setup<P> setup{model, room, {.draft_length = drafts}};
    CHECK(continue_all(setup, prompts, 10) == expected);
    for (std::size_t depth = 0; depth < static_cast<std::size_t>(drafts); ++depth) {
      CAPTURE(depth);
      const double rate = setup.decoder.counts().rate(depth);
      CAPTURE(rate);
      CHECK(rate > 0.1);  // of both kinds there are enough
      CHECK(rate < 0.9);
    }
  }
}

TEST_CASE_TEMPLATE("in any precision, where steps are of few rows", P, fp32, bf16_mixed) {
  support::decoding_model<P> model{support::small_model()};
  support::teach_drafts(model, 3);
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::uint64_t i = 0; i < 40; ++i) prompts.push_back(random_tokens(1 + i % 9, 100 + i));
  const decoding_config room{.sequences = 4, .longest = 24};
  support::decoding_setup<P> plain{model, room};
  const auto expected = continue_all(plain, prompts, 10);
  for (const index_t drafts : {1, 2, 3}) {
    CAPTURE(drafts);
    support::decoding_setup<P> setup{model, room, {.draft_length = drafts}};
    CHECK(continue_all(setup, prompts, 10) == expected);
    CHECK(setup.decoder.counts().accepted.front() > 0);
  }
}

TEST_CASE("after rejected drafts the caches hold what they would hold without drafting") {
  using P = fp64_reference;
  support::decoding_model<P> model{support::small_model()};
  support::teach_drafts(model, 3);
  for (const index_t drafts : {1, 2, 3})
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      CAPTURE(drafts);
      using setup_type = support::decoding_setup<P, short_pages>;
      setup_type setup{model, {.sequences = 1, .longest = 40}, {.draft_length = drafts}};
      const index_t slot = setup.state.open(random_tokens(6, seed)), one[] = {slot};
      setup.decoder.prefill(setup.ctx, setup.state, slot);
      setup.decoder.propose(setup.ctx, setup.state, one);
      for (int step = 0; step < 12; ++step) {
        setup.decoder.verify(setup.ctx, setup.state, one);
        CHECK(static_cast<index_t>(setup.state[slot].pages.size()) ==
              setup.state.pages_of(setup.state[slot].cached));
        setup.decoder.propose(setup.ctx, setup.state, one);
      }
      const auto& counts = setup.decoder.counts();
      CHECK(counts.judged.front() > counts.accepted.front());
      const decoding_sequence& found = setup.state[slot];
      CHECK(found.cached == static_cast<index_t>(found.tokens.size()) - 1);
      CHECK(found.drafted == found.cached);

      setup_type read{model, {.sequences = 1, .longest = 40}, {.draft_length = 1}};
      const index_t whole = read.state.open(found.tokens), one_whole[] = {whole};
      read.decoder.prefill(read.ctx, read.state, whole);
      read.decoder.propose(read.ctx, read.state, one_whole);
      for (index_t block = 0; block < 4; ++block) {  // the last is the MTP module's
        CAPTURE(block);
        CHECK(row_difference(setup.state, slot, read.state, whole, block, found.cached) < 1e-12);
      }
    }
}

TEST_CASE("logits of the MTP module at i do not depend on the tokens from i + 2 on") {
  support::decoding_model<fp64_reference> model{support::small_model()};
  const auto tokens = random_tokens(12, 9);
  const std::size_t vocab = 24;
  const auto expected = support::stepwise_logits(model, tokens, 12, 1);
  for (std::size_t i = 0; i + 2 < tokens.size(); ++i) {
    auto changed = tokens;
    for (std::size_t j = i + 2; j < changed.size(); ++j) changed[j] = (changed[j] + 7) % 24;
    const auto found = support::stepwise_logits(model, changed, 12, 1);
    const auto end = static_cast<std::ptrdiff_t>((i + 1) * vocab);
    CHECK(std::equal(expected.mtp.begin(), expected.mtp.begin() + end, found.mtp.begin()));
    CHECK_FALSE(
        std::equal(expected.mtp.begin() + end, expected.mtp.begin() + end + 24, found.mtp.begin() + end));
  }
}

TEST_CASE("drafts at the end of the context") {
  using P = fp64_reference;
  support::decoding_model<P> model{support::small_model()};
  support::teach_drafts(model, 3);
  const auto prompt = random_tokens(5, 77);
  const auto expected = support::full_greedy(model, prompt, 12);
  for (index_t longest = 5; longest <= 12; ++longest)
    for (const index_t drafts : {0, 1, 2, 3}) {
      CAPTURE(longest);
      CAPTURE(drafts);
      support::decoding_setup<P, short_pages> setup{
          model, {.sequences = 1, .longest = longest}, {.draft_length = drafts}};
      const auto found = setup.generate(prompt, static_cast<std::size_t>(longest) - 5 + 1);
      CHECK(std::equal(found.begin(), found.end(), expected.begin()));
    }
}

TEST_CASE("a step of few sequences over many rows finds its scratch") {
  // Fewer sequences than threads: their keys are shared among the threads, and every share needs a sum.
  using P = fp64_reference;
  model_config config = support::small_model();
  config.max_positions = 4096;
  support::decoding_model<P> model{config};
  support::decoding_setup<P> setup{model,
                                   {.sequences = 17, .longest = 4096},
                                   {.prefill_tokens = 1, .prefill_form = attention_form::absorbed},
                                   8};
  const auto rows = setup.state.cache().rows;
  std::fill_n(rows.data(), rows.size(), 0.0);
  std::vector<index_t> slots;
  for (std::uint64_t i = 0; i < 17; ++i) {
    slots.push_back(setup.state.open({1}));
    decoding_sequence& s = setup.state[slots.back()];
    s.tokens = random_tokens(4001, i), s.cached = 4000;
    setup.state.reserve(setup.ctx, slots.back(), 0, s.cached);
  }
  for (std::size_t count = 16; count > 0; count -= 2) {
    CAPTURE(count);
    CHECK_NOTHROW(setup.decoder.verify(setup.ctx, setup.state, {slots.data(), count}));
  }
}

TEST_CASE("only the first ids may follow, whatever the prompt has") {
  support::decoding_model<fp64_reference> model{support::small_model()};
  for (const index_t drafts : {0, 2}) {
    support::decoding_setup<fp64_reference> setup{
        model, {.sequences = 1, .longest = 60}, {.draft_length = drafts, .vocab = 5}};
    const auto found = setup.generate({23, 1, 17}, 50, {.temperature = 2, .repetition_penalty = 1.2}, 3);
    CHECK(*std::max_element(found.begin() + 3, found.end()) == 4);
  }
}

TEST_CASE("refusals") {
  support::decoding_model<fp64_reference> model{support::small_model()};
  using setup_type = support::decoding_setup<fp64_reference>;
  const auto make = [&](const decoder_options& options) {
    return support::raised([&] { setup_type{model, {.sequences = 1, .longest = 8}, options}; });
  };
  CHECK(make({.draft_length = -1}) ==
        "decoder: draft_length -1 and prefill_tokens 256, expected at least 0 and 1");
  CHECK(make({.vocab = 25}) == "decoder: vocab is 25, the model has 24 tokens");
  CHECK(make({.prefill_tokens = 0}) ==
        "decoder: draft_length 0 and prefill_tokens 0, expected at least 0 and 1");
  setup_type plain{model, {.sequences = 1, .longest = 8}};
  CHECK(support::raised([&] {
          speculative_decoder<fp64_reference, compact_layout>{
              plain.ctx,          model.memory,         model.config,       model.weights,
              model.routing.bias, plain.state.config(), {.draft_length = 1}};
        }) == "decoder: draft_length is 1, the decoding state was made without room for drafts");
  const index_t slot = plain.state.open({1, 2, 3}), one[] = {slot};
  CHECK(support::raised([&] { plain.decoder.verify(plain.ctx, plain.state, one); }) ==
        "decoder: the prompt of sequence 0 is not read");
  while (!plain.decoder.prefill(plain.ctx, plain.state, slot)) {
  }
  while (plain.state[slot].cached < 8) plain.decoder.verify(plain.ctx, plain.state, one);
  CHECK(support::raised([&] { plain.decoder.verify(plain.ctx, plain.state, one); }) ==
        "decoder: sequence 0 has 8 rows already, as many as it may");
}
