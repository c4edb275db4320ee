// SPDX-License-Identifier: MIT
// Drafting does not change what text is likely: counts of many draws against the model's own probabilities.
#include <infer/small_decoder.hpp>
#include <oracle/token_distribution.hpp>
#include <support/chi_square.hpp>

#include <doctest/doctest.h>

using namespace dsv3;
using P = fp32;

namespace {

constexpr std::size_t vocab = 8;
const std::vector<std::int32_t> prompt{5, 2, 7};

/// Probabilities of the token after these, as `how` filters them.
std::vector<double> next(support::decoding_model<P>& model, const std::vector<std::int32_t>& tokens,
                         const sampling_options& how) {
  const auto logits = support::full_logits(model, tokens);
  const std::vector<double> last(logits.end() - vocab, logits.end());
  return oracle::token_distribution(last,
                                    {.temperature = how.temperature,
                                     .top_k = static_cast<std::size_t>(how.top_k),
                                     .top_p = how.top_p,
                                     .penalty = how.repetition_penalty},
                                    {tokens.begin(), tokens.end()});
}

/// Probabilities of the second token after the prompt, of it and the third, and of the first two.
struct expectation {
  std::vector<double> second = std::vector<double>(vocab), second_third = std::vector<double>(vocab * vocab),
                      first_second = second_third;

  expectation(support::decoding_model<P>& model, const sampling_options& how) {
    auto tokens = prompt;
    const auto first = next(model, tokens, how);
    for (std::size_t a = 0; a < vocab; ++a) {
      tokens.push_back(static_cast<std::int32_t>(a));
      const auto after_one = next(model, tokens, how);
      for (std::size_t b = 0; b < vocab; ++b) {
        tokens.push_back(static_cast<std::int32_t>(b));
        const auto after_two = next(model, tokens, how);
        const double both = first[a] * after_one[b];
        second[b] += both, first_second[a * vocab + b] += both;
        for (std::size_t c = 0; c < vocab; ++c) second_third[b * vocab + c] += both * after_two[c];
        tokens.pop_back();
      }
      tokens.pop_back();
    }
  }
};

struct counts {
  std::vector<double> second = std::vector<double>(vocab), second_third = std::vector<double>(vocab * vocab),
                      first_second = second_third;
  double accepted = 0;  // share of the drafts that were judged

  void add(const std::vector<std::int32_t>& tokens) {
    const auto at = [&](std::size_t i) { return static_cast<std::size_t>(tokens[prompt.size() + i]); };
    ++second[at(1)], ++first_second[at(0) * vocab + at(1)], ++second_third[at(1) * vocab + at(2)];
  }
};

/// `draws` texts of three tokens after the prompt. The first is never a draft, the others are where there are
/// drafts. The prompt is read once: texts begin anew by a shorter length, as discarded drafts are forgotten.
counts draw(support::decoding_model<P>& model, const sampling_options& how, index_t drafts, int draws,
            std::uint64_t seed) {
  constexpr index_t width = 100;
  support::decoding_setup<P> setup{model,
                                   {.sequences = width, .longest = 12, .tokens = width * 64},
                                   {.draft_length = drafts, .prefill_tokens = 4},
                                   1};
  std::vector<index_t> all;
  for (index_t i = 0; i < width; ++i) {
    all.push_back(setup.state.open(prompt, how));
    while (!setup.decoder.prefill(setup.ctx, setup.state, all.back())) {
    }
    setup.decoder.propose(setup.ctx, setup.state, {&all.back(), 1});
  }
  counts result;
  const auto rows = static_cast<index_t>(prompt.size()) - 1;
  for (int done = 0; done < draws; done += width) {
    for (const index_t slot : all) {
      decoding_sequence& s = setup.state[slot];
      s.tokens = prompt, s.drafts.clear();
      s.cached = rows, s.drafted = drafts > 0 ? rows : 0;
      s.seed = seed + static_cast<std::uint64_t>(done + slot);
    }
    for (std::vector<index_t> going = all; !going.empty();) {
      setup.decoder.verify(setup.ctx, setup.state, going);
      std::erase_if(going,
                    [&](index_t slot) { return setup.state[slot].tokens.size() >= prompt.size() + 3; });
      setup.decoder.propose(setup.ctx, setup.state, going);
    }
    for (const index_t slot : all) result.add(setup.state[slot].tokens);
  }
  if (drafts > 0) result.accepted = setup.decoder.counts().rate(0);
  return result;
}

void check(const counts& found, const expectation& expected) {
  CHECK(support::chi_square_p(found.second, expected.second) > support::plausible);
  CHECK(support::chi_square_p(found.first_second, expected.first_second) > support::plausible);
  CHECK(support::chi_square_p(found.second_third, expected.second_third) > support::plausible);
}

}  // namespace

TEST_CASE("a hundred thousand draws of the model's distribution, with one draft and with two") {
  support::decoding_model<P> model{support::eight_token_model(), 4};
  support::teach_drafts(model, 2);
  const sampling_options how{.temperature = 1};
  const expectation expected{model, how};
  const counts plain = draw(model, how, 0, 100'000, 1);
  check(plain, expected);
  for (const index_t drafts : {1, 2}) {
    CAPTURE(drafts);
    const counts found = draw(model, how, drafts, 100'000, 1'000'000 * static_cast<std::uint64_t>(drafts));
    CAPTURE(found.accepted);
    CHECK(found.accepted > 0.2);  // of both kinds there are enough
    CHECK(found.accepted < 0.9);
    check(found, expected);
  }
}

TEST_CASE("the same with every filter, and with three drafts") {
  support::decoding_model<P> model{support::eight_token_model(), 4};
  support::teach_drafts(model, 2);
  const sampling_options ways[] = {{.temperature = 0.7, .top_k = 3},
                                   {.temperature = 1.3, .top_p = 0.8},
                                   {.temperature = 1, .repetition_penalty = 1.7},
                                   {.temperature = 0.9, .top_k = 6, .top_p = 0.9, .repetition_penalty = 1.3}};
  for (const sampling_options& how : ways) {
    CAPTURE(&how - ways);
    const expectation expected{model, how};
    check(draw(model, how, 3, 10'000, 7'000'000), expected);
  }
}

TEST_CASE("the distributions can be told apart") {  // or the checks above would show nothing
  support::decoding_model<P> model{support::eight_token_model(), 4};
  support::teach_drafts(model, 2);
  const counts found = draw(model, {.temperature = 1}, 1, 20'000, 1);
  for (const sampling_options& other :
       {sampling_options{.temperature = 0.9}, sampling_options{.temperature = 1, .top_k = 7},
        sampling_options{.temperature = 1, .repetition_penalty = 1.2}}) {
    const expectation wrong{model, other};
    CHECK(support::chi_square_p(found.second_third, wrong.second_third) < support::impossible);
  }
}

TEST_CASE("a seed gives the same text whoever else is there") {
  support::decoding_model<fp64_reference> model{support::small_model()};
  support::teach_drafts(model, 1.5);
  for (const index_t drafts : {0, 2}) {
    CAPTURE(drafts);
    using setup_type = support::decoding_setup<fp64_reference>;
    const sampling_options how{.temperature = 0.8, .top_p = 0.95, .repetition_penalty = 1.1};
    const auto ids = [](std::uint64_t i) { return std::vector<std::int32_t>{3, std::int32_t(i), 8, 1}; };
    setup_type alone{model, {.sequences = 1, .longest = 40}, {.draft_length = drafts}};
    std::vector<std::vector<std::int32_t>> expected;
    for (std::uint64_t i = 0; i < 6; ++i) expected.push_back(alone.generate(ids(i), 20, how, 40 + i));
    CHECK(alone.generate(ids(3), 20, how, 43) == expected[3]);
    CHECK_FALSE(alone.generate(ids(3), 20, how, 44) == expected[3]);

    setup_type together{model, {.sequences = 6, .longest = 40}, {.draft_length = drafts}, 3};
    std::vector<index_t> slots;
    for (std::uint64_t i = 6; i-- > 0;) {
      slots.push_back(together.state.open(ids(i), how, 40 + i));
      while (!together.decoder.prefill(together.ctx, together.state, slots.back())) {
      }
      together.decoder.propose(together.ctx, together.state, {&slots.back(), 1});
    }
    for (int step = 0; step < 20; ++step) {
      std::vector<index_t> going;
      for (const index_t slot : slots)
        if (together.state[slot].tokens.size() < 24) going.push_back(slot);
      together.decoder.verify(together.ctx, together.state, going);
      together.decoder.propose(together.ctx, together.state, going);
    }
    for (std::size_t i = 0; i < 6; ++i) {
      auto found = together.state[slots[i]].tokens;
      REQUIRE(found.size() >= 24);
      found.resize(24);
      CHECK(found == expected[5 - i]);
    }
  }
}
