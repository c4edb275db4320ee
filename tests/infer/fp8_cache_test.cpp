// SPDX-License-Identifier: MIT
// Decoding over a cache in 8 bits: the same whatever pages, steps and drafts; near decoding over a plain one.
#include <dsv3/model/accounting.hpp>

#include <infer/small_decoder.hpp>

#include <doctest/doctest.h>

using namespace dsv3;

namespace {

struct short_pages : with_fp8_cache<compact_layout> {
  using cache = cache_layout::fp8<cache_layout::paged<4>>;
};
struct one_page : with_fp8_cache<compact_layout> {
  using cache = cache_layout::fp8<cache_layout::contiguous>;
};

std::vector<std::int32_t> random_tokens(std::size_t count, std::uint64_t seed) {
  const random_stream random{seed, 3};
  std::vector<std::int32_t> tokens;
  for (std::size_t i = 0; i < count; ++i) tokens.push_back(static_cast<std::int32_t>(random.below(24, i)));
  return tokens;
}

}  // namespace

TEST_CASE("a token takes 656 bytes of a layer of the real model") {
  host_memory memory;
  const model_config model = model_config::deepseek_v3();
  const model_account account{model};
  for (const bool drafts : {false, true}) {
    const decoding_state<bf16_mixed, with_fp8_cache<default_layout>> state{
        memory, {.model = model, .longest = 64, .drafts = drafts}};
    const index_t layers = drafts ? 62 : 61;
    CHECK(state.token_bytes() == layers * 656);
    CHECK(state.token_bytes() == layers * account.fp8_cache_bytes_per_layer());
    CHECK(static_cast<index_t>(state.cache_bytes()) == 64 * state.token_bytes());
  }
}

TEST_CASE_TEMPLATE("logits depend on neither pages nor threads, and are near those over a plain cache", P,
                   fp64_reference, fp32, bf16_mixed) {
  support::decoding_model<P> model{support::small_model()};
  const auto tokens = random_tokens(30, 5);
  for (const attention_form form : {attention_form::absorbed, attention_form::expanded})
    for (const index_t first : {1, 6, 30}) {
      CAPTURE(static_cast<int>(form));
      CAPTURE(first);
      const auto paged = support::stepwise_logits<P, short_pages>(model, tokens, first, 2, form);
      const auto whole = support::stepwise_logits<P, one_page>(model, tokens, first, 2, form, 3);
      CHECK(paged.main == whole.main);
      CHECK(paged.mtp == whole.mtp);
      const auto plain = support::stepwise_logits<P>(model, tokens, first, 2, form);
      const double main = support::worst_difference(paged.main, plain.main);
      const double mtp = support::worst_difference(paged.mtp, plain.mtp);
      CHECK(main > 1e-4);  // it is another cache
      CHECK(main < 0.1);
      CHECK(mtp > 1e-4);
      CHECK(mtp < 0.1);
    }
}

TEST_CASE("drafts and steps change no greedy text") {
  support::decoding_model<fp64_reference> model{support::small_model()};
  const std::vector<std::int32_t> prompt{3, 9, 1, 7, 7, 20, 4};
  std::vector<std::int32_t> expected;
  for (const index_t drafts : {0, 1, 3})
    for (const index_t chunk : {1, 3, 64}) {
      CAPTURE(drafts);
      CAPTURE(chunk);
      support::decoding_setup<fp64_reference, short_pages> setup{
          model, {.longest = 48}, {.draft_length = drafts, .prefill_tokens = chunk}};
      const auto found = setup.generate(prompt, 20);
      if (expected.empty()) expected = found;
      CHECK(found == expected);
    }
}

TEST_CASE("sequences that share pages go on as they do alone") {
  support::decoding_model<fp64_reference> model{support::small_model()};
  using setup_type = support::decoding_setup<fp64_reference, short_pages>;
  const auto start = [](setup_type& setup, const std::vector<std::int32_t>& prompt) {
    const index_t slot = setup.state.open(prompt);
    while (!setup.decoder.prefill(setup.ctx, setup.state, slot)) {
    }
    return slot;
  };
  const auto prompt = random_tokens(11, 8);
  auto other = prompt;
  other.back() = (other.back() + 1) % 24;
  setup_type alone{model, {.longest = 40}}, together{model, {.sequences = 2, .longest = 40}};
  const auto first = alone.generate(prompt, 12), second = alone.generate(other, 12);
  const index_t slots[] = {start(together, prompt), start(together, other)};
  CHECK(together.state[slots[0]].pages[0] == together.state[slots[1]].pages[0]);
  while (together.state[slots[0]].tokens.size() < first.size())
    together.decoder.verify(together.ctx, together.state, slots);
  CHECK(together.state[slots[0]].tokens == first);
  CHECK(together.state[slots[1]].tokens == second);
}
