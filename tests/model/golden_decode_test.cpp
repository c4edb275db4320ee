// SPDX-License-Identifier: MIT
// Decoding gives the logits and the greedy continuations of another implementation:
// tests/data/golden/README.md.
#include <dsv3/model/checkpoint.hpp>

#include <infer/small_decoder.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace dsv3;

namespace {

const char* const variants[] = {"tiny", "tiny_yarn", "tiny_direct_q", "tiny_mtp", "tiny_fp8", "tiny_mtp_fp8"};
constexpr index_t prompt_tokens = 48, new_tokens = 16;  // of a row of `greedy`
constexpr double as_golden = 2e-5, as_forward = 1e-5;   // of the largest logit; fp32

struct golden {
  std::string folder;
  safetensors_file expected;
  checkpoint_reader reader;
  support::decoding_model<fp32> model;

  explicit golden(const std::string& variant)
      : folder("tests/data/golden/" + variant),
        expected(folder + "/golden.safetensors"),
        reader(folder),
        model(reader.config()) {
    reader.read(model.weights, model.routing.bias, compact_layout::rope);
  }

  /// The first `count` tokens of a row of `greedy`.
  std::vector<std::int32_t> tokens(index_t row, index_t count) const {
    const tensor_values<std::int64_t, 2> greedy{expected.tensor("greedy")};
    std::vector<std::int32_t> result;
    for (index_t i = 0; i < count; ++i) result.push_back(static_cast<std::int32_t>(greedy.values()(row, i)));
    return result;
  }
  /// A row of expected logits.
  std::vector<double> logits(const std::string& name, index_t row) const {
    const tensor_entry& tensor = expected.tensor(name);
    std::vector<double> all(static_cast<std::size_t>(tensor.elements()));
    read_converted(tensor, std::span(all));
    const auto size = static_cast<std::ptrdiff_t>(all.size()) / 2;
    return {all.begin() + row * size, all.begin() + (row + 1) * size};
  }
};

}  // namespace

TEST_CASE("decoding token by token, and a prompt in parts, gives the golden logits") {
  for (const char* variant : variants) {
    CAPTURE(variant);
    golden g{variant};
    for (const index_t row : {0, 1}) {
      CAPTURE(row);
      const auto tokens = g.tokens(row, prompt_tokens);
      const auto forward = support::full_logits(g.model, tokens);
      struct {
        index_t first, later;
        attention_form form;
      } const ways[] = {{1, 1, attention_form::by_cost},   {1, 1, attention_form::expanded},
                        {1, 1, attention_form::absorbed},  {30, 1, attention_form::by_cost},
                        {7, 11, attention_form::absorbed}, {7, 11, attention_form::expanded},
                        {48, 1, attention_form::absorbed}, {48, 1, attention_form::by_cost}};
      for (const auto& way : ways) {
        CAPTURE(way.first);
        CAPTURE(way.later);
        CAPTURE(static_cast<int>(way.form));
        const auto found = support::stepwise_logits(g.model, tokens, way.first, way.later, way.form);
        CHECK(support::worst_difference(found.main, g.logits("logits", row)) <= as_golden);
        CHECK(support::worst_difference(found.main, forward) <= as_forward);
        if (g.model.config.mtp_depth > 0)
          CHECK(support::worst_difference(found.mtp, g.logits("mtp.1.logits", row)) <= as_golden);
      }
    }
  }
}

TEST_CASE("greedy continuations are the golden ones, with and without drafts") {
  for (const char* variant : variants) {
    CAPTURE(variant);
    golden g{variant};
    const index_t most = g.model.config.mtp_depth > 0 ? 3 : 0;
    for (index_t drafts = 0; drafts <= most; ++drafts)
      for (const index_t part : {index_t{5}, index_t{256}}) {
        CAPTURE(drafts);
        CAPTURE(part);
        support::decoding_setup<fp32> setup{g.model,
                                            {.sequences = 2, .longest = prompt_tokens + new_tokens},
                                            {.draft_length = drafts, .prefill_tokens = part}};
        for (const index_t row : {0, 1})
          CHECK(setup.generate(g.tokens(row, prompt_tokens), new_tokens) ==
                g.tokens(row, prompt_tokens + new_tokens));
        if (drafts > 0) CHECK(setup.decoder.counts().judged.front() > 0);
      }
  }
}

TEST_CASE("a prompt of one token goes on as whole forward passes go on") {
  for (const char* variant : variants) {
    CAPTURE(variant);
    golden g{variant};
    const auto prompt = g.tokens(0, 1);
    const auto expected = support::full_greedy(g.model, prompt, new_tokens);
    for (index_t drafts = 0; drafts <= (g.model.config.mtp_depth > 0 ? 3 : 0); ++drafts) {
      CAPTURE(drafts);
      support::decoding_setup<fp32> setup{
          g.model, {.sequences = 1, .longest = 2 * new_tokens}, {.draft_length = drafts}};
      CHECK(setup.generate(prompt, new_tokens) == expected);
    }
  }
}
