// SPDX-License-Identifier: MIT
#include <infer/small_decoder.hpp>

#include <doctest/doctest.h>

using namespace dsv3;

TEST_CASE("greedy decoding is greedy forward") {
  support::decoding_model<fp64_reference> model{support::small_model()};
  const std::vector<std::int32_t> prompt{3, 9, 1, 7, 7, 20, 4};
  const auto expected = support::full_greedy(model, prompt, 20);
  for (const index_t drafts : {0, 1, 2, 3})
    for (const index_t chunk : {1, 3, 64}) {
      CAPTURE(drafts);
      CAPTURE(chunk);
      support::decoding_setup<fp64_reference> setup{
          model, {.sequences = 2, .longest = 40}, {.draft_length = drafts, .prefill_tokens = chunk}};
      CHECK(setup.generate(prompt, 20) == expected);
    }
}
