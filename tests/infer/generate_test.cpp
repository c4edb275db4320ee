// SPDX-License-Identifier: MIT
// Continuous batching: who joins and leaves changes nobody's text, and everything comes back.
#include <infer/small_decoder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <map>

using namespace dsv3;
using P = fp64_reference;

namespace {

struct short_pages : compact_layout {
  using cache = cache_layout::paged<4>;
};
using setup_type = support::decoding_setup<P, short_pages>;
using generator_type = generator<P, short_pages>;

struct taught_model : support::decoding_model<P> {
  taught_model() : decoding_model(support::small_model()) { support::teach_drafts(*this, 3); }
};
support::decoding_model<P>& model() {
  static taught_model made;
  return made;
}

std::vector<std::int32_t> random_prompt(std::size_t count, std::uint64_t seed) {
  const random_stream random{seed, 3};
  std::vector<std::int32_t> tokens;
  for (std::size_t i = 0; i < count; ++i) tokens.push_back(static_cast<std::int32_t>(random.below(24, i)));
  return tokens;
}

struct answer {
  std::vector<std::int32_t> tokens;
  finish reason = finish::none;
  index_t mark = 0, events = 0;
  bool operator==(const answer& other) const {
    return tokens == other.tokens && reason == other.reason && mark == other.mark;
  }
};

void collect(std::map<index_t, answer>& answers, const std::vector<generation_event>& events) {
  for (const generation_event& event : events) {
    answer& to = answers[event.request];
    CHECK(to.reason == finish::none);  // nothing comes after the end
    to.tokens.insert(to.tokens.end(), event.tokens.begin(), event.tokens.end());
    to.reason = event.reason, to.mark = event.mark, ++to.events;
  }
}

std::map<index_t, answer> finish_all(generator_type& requests, setup_type& setup) {
  std::map<index_t, answer> answers;
  while (requests.busy()) collect(answers, requests.step(setup.ctx));
  return answers;
}

// The answer to a request that nobody shares the machine with.
answer alone(const generation_request& request, decoder_options options = {}, index_t longest = 40) {
  setup_type setup{model(), {.sequences = 1, .longest = longest}, options};
  generator_type requests{setup.state, setup.decoder};
  requests.add(request);
  return finish_all(requests, setup)[0];
}

}  // namespace

TEST_CASE("requests that join and leave are answered as each alone") {
  std::vector<generation_request> requests;
  for (std::uint64_t i = 0; i < 12; ++i) {
    generation_request r{.prompt = random_prompt(1 + i * 5 % 13, i % 9), .stop = {}, .sampling = {}};
    r.stop.max_tokens = 1 + static_cast<index_t>(i * 7 % 11);
    if (i % 3 == 1) r.sampling = {.temperature = 0.8, .top_k = 9, .repetition_penalty = 1.2}, r.seed = i;
    requests.push_back(std::move(r));
  }
  for (const index_t drafts : {0, 1, 3})
    for (const index_t slots : {1, 3, 12}) {
      CAPTURE(drafts);
      CAPTURE(slots);
      const decoder_options options{.draft_length = drafts, .prefill_tokens = 5};
      setup_type setup{model(), {.sequences = slots, .longest = 40}, options};
      generator_type together{setup.state, setup.decoder};
      std::map<index_t, answer> answers;
      for (std::size_t i = 0; i < requests.size(); ++i) {  // one more with every step
        CHECK(together.add(requests[i]) == static_cast<index_t>(i));
        collect(answers, together.step(setup.ctx));
      }
      while (together.busy()) collect(answers, together.step(setup.ctx));
      std::int64_t prompt_tokens = 0, tokens = 0;
      for (std::size_t i = 0; i < requests.size(); ++i) {
        CAPTURE(i);
        const answer& found = answers[static_cast<index_t>(i)];
        CHECK(found == alone(requests[i], options));
        CHECK(found.reason == finish::length);
        CHECK(static_cast<index_t>(found.tokens.size()) == requests[i].stop.max_tokens);
        prompt_tokens += static_cast<std::int64_t>(requests[i].prompt.size());
        tokens += static_cast<std::int64_t>(found.tokens.size());
      }
      const generation_counts& counts = together.counts();
      CHECK(counts.prompt_tokens + counts.shared_tokens == prompt_tokens);
      CHECK(counts.decoded_tokens >= tokens - 12);  // the first of each is the prompt's
      CHECK((counts.decode_steps < tokens || slots == 1));
      CHECK(setup.state.pool().free_pages() == setup.state.pool().pages());
    }
}

TEST_CASE("a stop inside accepted drafts cuts the text there") {
  const std::vector<std::int32_t> prompt{3, 9, 1, 7};
  const answer whole = alone({.prompt = prompt, .stop = {.max_tokens = 20}});
  REQUIRE(whole.tokens.size() == 20);
  const decoder_options options{.draft_length = 3};
  index_t most = 0;
  for (std::size_t length = 1; length <= 20; ++length) {
    const auto begin = whole.tokens.begin(), end = begin + static_cast<std::ptrdiff_t>(length);
    const std::int32_t last = *(end - 1);
    const auto seen = static_cast<std::size_t>(std::find(begin, end, last) - begin) + 1;
    const answer ended = alone({.prompt = prompt, .stop = {.max_tokens = 20, .end_ids = {last}}}, options);
    CHECK(ended.tokens == std::vector<std::int32_t>(begin, begin + static_cast<std::ptrdiff_t>(seen)));
    CHECK(ended.reason == finish::end_token);
    CHECK(ended.mark == 1);
    const answer cut =
        alone({.prompt = prompt, .stop = {.max_tokens = static_cast<index_t>(length)}}, options);
    CHECK(cut.tokens == std::vector<std::int32_t>(begin, end));
    CHECK(cut.reason == finish::length);
    most = std::max(most, static_cast<index_t>(length) - cut.events);
    if (length < 3) continue;
    const std::vector<std::int32_t> run(end - 3, end);  // three tokens, over several steps or within one
    const answer stopped =
        alone({.prompt = prompt, .stop = {.max_tokens = 20, .stop_sequences = {run}}}, options);
    const auto found = std::search(begin, whole.tokens.end(), run.begin(), run.end());
    CHECK(stopped.tokens == std::vector<std::int32_t>(begin, found + 3));
    CHECK(stopped.reason == finish::stop_sequence);
    CHECK(stopped.mark == 3);
  }
  CHECK(most > 0);  // some steps brought more than one token
}

TEST_CASE("nothing wanted, and nothing that fits") {
  CHECK(alone({.prompt = {1, 2}, .stop = {.max_tokens = 0}}) == answer{{}, finish::length});
  CHECK(alone({.prompt = random_prompt(12, 1)}, {}, 12) == answer{{}, finish::context});
  for (const index_t drafts : {0, 2}) {
    const answer full = alone({.prompt = random_prompt(9, 1)}, {.draft_length = drafts}, 12);
    CHECK(full.reason == finish::context);
    CHECK(full.tokens.size() == 3);
  }
}

TEST_CASE("a request waits until the cache has room for all it may need") {
  // Seven pages of four rows; each request may come to 11 rows, so two run beside each other.
  setup_type setup{model(), {.sequences = 4, .longest = 16, .tokens = 28}};
  generator_type requests{setup.state, setup.decoder};
  std::vector<generation_request> asked;
  for (std::uint64_t i = 0; i < 5; ++i) {
    asked.push_back({.prompt = random_prompt(6, 20 + i), .stop = {.max_tokens = 5}});
    requests.add(asked.back());
  }
  std::map<index_t, answer> answers;
  index_t most = 0;
  while (requests.busy()) {
    collect(answers, requests.step(setup.ctx));
    most = std::max(most, setup.state.open_sequences());
  }
  CHECK(most == 2);
  REQUIRE(answers.size() == 5);
  for (std::size_t i = 0; i < 5; ++i) CHECK(answers[static_cast<index_t>(i)] == alone(asked[i]));
  CHECK(setup.state.pool().free_pages() == 7);
}

TEST_CASE("a common beginning is read once") {
  setup_type setup{model(), {.sequences = 3, .longest = 40}, {.draft_length = 1}};
  generator_type requests{setup.state, setup.decoder};
  std::vector<generation_request> asked;
  for (std::int32_t i = 0; i < 3; ++i) {
    asked.push_back({.prompt = random_prompt(17, 3), .stop = {.max_tokens = 9}});
    asked.back().prompt.push_back(i);
    requests.add(asked.back());
    requests.step(setup.ctx);  // the first prompt is read before the second comes
  }
  CHECK(requests.counts().shared_tokens == 2 * 16);  // one less than they share: drafts know the next token
  CHECK(requests.counts().prompt_tokens == 18 + 2 * 2);
  std::map<index_t, answer> answers = finish_all(requests, setup);
  requests.add(asked[1]);  // nobody is left to share with
  answers = finish_all(requests, setup);
  CHECK(requests.counts().shared_tokens == 2 * 16);
  CHECK(answers[3] == alone(asked[1]));
}

TEST_CASE("who is cancelled is gone, the others are not disturbed") {
  setup_type setup{model(), {.sequences = 2, .longest = 40}, {.draft_length = 2}};
  generator_type requests{setup.state, setup.decoder};
  std::vector<generation_request> asked;
  for (std::uint64_t i = 0; i < 4; ++i) {
    asked.push_back({.prompt = random_prompt(7, 50 + i), .stop = {.max_tokens = 12}});
    requests.add(asked.back());
  }
  std::map<index_t, answer> answers;
  for (int i = 0; i < 3; ++i) collect(answers, requests.step(setup.ctx));
  requests.cancel(0);  // runs
  requests.cancel(3);  // waits
  const auto before = answers[0].tokens.size();
  while (requests.busy()) collect(answers, requests.step(setup.ctx));
  CHECK(answers[0].tokens.size() == before);
  CHECK(answers[0].reason == finish::none);
  CHECK(answers.count(3) == 0);
  for (const index_t i : {1, 2}) CHECK(answers[i] == alone(asked[static_cast<std::size_t>(i)]));
  CHECK(setup.state.pool().free_pages() == setup.state.pool().pages());
}

TEST_CASE("ten thousand requests leave no page and no byte behind") {
  support::decoding_model<P> small{support::eight_token_model()};
  setup_type setup{small, {.sequences = 16, .longest = 12}, {.draft_length = 1, .prefill_tokens = 4}, 1};
  generator_type requests{setup.state, setup.decoder};
  std::size_t in_use =
      0;  // once the arrays of steps, which are kept for the next ones, have been as long as they get
  index_t added = 0, finished = 0, cancelled = 0, fewest_free = setup.state.pool().pages();
  while (added < 10'000 || requests.busy()) {
    for (int i = 0; i < 8 && added < 10'000; ++i, ++added) {
      std::vector<std::int32_t> prompt{1, 2, 3};  // shared, and then not
      for (index_t j = 0; j < added % 5; ++j)
        prompt.push_back(static_cast<std::int32_t>(added / (j + 1) % 8));
      requests.add({.prompt = prompt, .stop = {.max_tokens = 1 + added % 3}});
    }
    for (const generation_event& event : requests.step(setup.ctx)) finished += event.reason != finish::none;
    if (added % 400 == 0 && added < 10'000 && setup.state.open_sequences() > 0)
      requests.cancel(added - 1), ++cancelled;
    fewest_free = std::min(fewest_free, setup.state.pool().free_pages());
    if (added <= 400)
      in_use = small.memory.in_use();
    else
      CHECK(small.memory.in_use() == in_use);
  }
  CHECK(finished + cancelled == 10'000);
  CHECK(fewest_free < setup.state.pool().pages());
  CHECK(setup.state.pool().free_pages() == setup.state.pool().pages());
  CHECK(setup.state.open_sequences() == 0);
  CHECK(small.memory.peak() == in_use);
  CHECK(requests.counts().shared_tokens > 0);
}

TEST_CASE("refusals") {
  setup_type setup{model(), {.sequences = 2, .longest = 16, .tokens = 12}, {.draft_length = 1}};
  generator_type requests{setup.state, setup.decoder};
  const auto add = [&](generation_request request) {
    return support::raised([&] { requests.add(std::move(request)); });
  };
  CHECK(add({.prompt = {}}) == "prompt: it has no token, expected at least one");
  CHECK(add({.prompt = {24}}) == "prompt: token 0 is 24, the model's vocabulary ends at 23");
  CHECK(add({.prompt = random_prompt(17, 1)}) == "prompt: 17 tokens, a sequence may have 16");
  CHECK(add({.prompt = {1}, .stop = {.max_tokens = -1}}) ==
        "stop_conditions: max_tokens is -1, expected at least 0");
  CHECK(add({.prompt = {1}, .sampling = {.top_p = 0}}) ==
        "sampling_options: top_p is 0.000000, expected above 0 and at most 1");
  CHECK(add({.prompt = {1, 2}}) ==
        "latent cache: the request needs 4 pages of 4 rows (16 tokens), the cache has 3");
  CHECK(add({.prompt = {1, 2}, .stop = {.max_tokens = 9}}).empty());
  CHECK(requests.busy());
  CHECK(finish_all(requests, setup)[0].tokens.size() == 9);
}

TEST_CASE("steps of one shape have one key, and are executed by who is asked to") {
  for (const index_t drafts : {0, 2}) {
    CAPTURE(drafts);
    const auto answers_of = [&](auto&& execute, double penalty) {
      const decoder_options options{.draft_length = drafts};
      setup_type setup{model(), {.sequences = 2, .longest = 40}, options};
      generator_type together{setup.state, setup.decoder};
      for (std::uint64_t i = 0; i < 3; ++i)
        together.add({.prompt = random_prompt(4, i),
                      .stop = {.max_tokens = 30},
                      .sampling = {.temperature = 1, .repetition_penalty = penalty},
                      .seed = i});
      std::map<index_t, answer> answers;
      while (together.busy()) collect(answers, together.step(setup.ctx, execute));
      return answers;
    };
    std::map<std::vector<double>, int> steps;
    const auto counted = [&](auto& ctx, const std::vector<double>& key, auto&& work) {
      ++steps[key];
      work(ctx);
    };
    CHECK(answers_of(counted, 1) == answers_of(directly{}, 1));
    int most = 0, all = 0;
    for (const auto& [key, count] : steps) most = std::max(most, count), all += count;
    // Two sequences, then one; with drafts as many shapes as drafts may be accepted.
    CHECK(steps.size() <= (drafts == 0 ? 2 : 24));
    CHECK(most > (drafts == 0 ? 25 : 5));
    CHECK(all > 40);

    steps.clear();  // what was seen is longer with every token
    CHECK(answers_of(counted, 1.5) == answers_of(directly{}, 1.5));
    CHECK(steps.empty());
  }
}
