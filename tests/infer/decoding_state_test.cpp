// SPDX-License-Identifier: MIT
// Sequences and their rows: who shares a page, who gets a copy, what comes back, and what is refused.
#include <dsv3/model/named_config.hpp>

#include <infer/small_decoder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <type_traits>

using namespace dsv3;
using P = fp64_reference;

namespace {

struct paged_layout : compact_layout {
  using cache = cache_layout::paged<4>;
};
struct contiguous_layout : compact_layout {
  using cache = cache_layout::contiguous;
};

std::vector<std::int32_t> counted(std::int32_t count, std::int32_t from = 0) {
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < count; ++i) tokens.push_back((from + i) % 24);
  return tokens;
}

/// A state whose rows are written by hand: row j of a sequence gets a number of its own in every block.
template <layout_policy L>
struct fixture {
  host_memory memory;
  cpu_context<> ctx{.threads = 2};
  decoding_state<P, L> state;

  explicit fixture(decoding_config c = {.sequences = 3, .longest = 16}, index_t mtp_depth = 1)
      : state(memory, with_model(std::move(c), mtp_depth)) {}
  static decoding_config with_model(decoding_config c, index_t mtp_depth) {
    c.model = support::small_model();
    c.model.mtp_depth = mtp_depth;
    return c;
  }

  index_t blocks() const { return state.cache().rows.extent(0); }
  view<double, 1> row(index_t slot, index_t block, index_t j) {
    const index_t rows = state.page_rows();
    return state.cache().rows[block][state[slot].pages[static_cast<std::size_t>(j / rows)]][j % rows];
  }
  // As a step does it: the rows [cached, last) are reserved, written and counted.
  void write(index_t slot, index_t last, double mark) {
    const index_t first = state[slot].cached;
    state.reserve(ctx, slot, first, last);
    for (index_t block = 0; block < blocks(); ++block)
      for (index_t j = first; j < last; ++j)
        for (index_t e = 0; e < row(slot, block, j).extent(0); ++e)
          row(slot, block, j)(e) = number(mark, block, j, e);
    state[slot].cached = last;
    if (state.config().drafts) state[slot].drafted = last;
  }
  bool reads(index_t slot, index_t first, index_t last, double mark) {
    for (index_t block = 0; block < blocks(); ++block)
      for (index_t j = first; j < last; ++j)
        for (index_t e = 0; e < row(slot, block, j).extent(0); ++e)
          if (row(slot, block, j)(e) != number(mark, block, j, e)) return false;
    return true;
  }
  static double number(double mark, index_t block, index_t j, index_t e) {
    return mark + static_cast<double>((block * 100 + j) * 100 + e);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("sequences begin and end, and every page comes back", L, paged_layout, contiguous_layout) {
  fixture<L> f;
  const index_t pages = f.state.pool().pages();
  CHECK(pages * f.state.page_rows() == 48);
  CHECK(f.state.open_sequences() == 0);
  const index_t a = f.state.open(counted(3)), b = f.state.open(counted(5, 10));
  CHECK(a == 0);
  CHECK(b == 1);
  CHECK(f.state.is_open(b));
  CHECK(f.state[b].tokens == counted(5, 10));
  CHECK(f.state[b].prompt_tokens == 5);
  CHECK(f.state.pool().free_pages() == pages);  // a sequence has pages once it has rows
  f.write(b, 5, 0);
  CHECK(pages - f.state.pool().free_pages() == ceil_div(5, f.state.page_rows()));
  f.state.close(a);
  CHECK_FALSE(f.state.is_open(a));
  CHECK(f.state.open(counted(1, 20)) == a);  // the free slot is taken again
  CHECK(f.state.open_sequences() == 2);
  f.state.close(a), f.state.close(b);
  CHECK(f.state.pool().free_pages() == pages);
}

TEST_CASE("reserve takes the pages of the rows, trim gives back those without one in use") {
  fixture<paged_layout> f;
  const index_t slot = f.state.open(counted(6)), pages = f.state.pool().pages();
  const auto held = [&] { return pages - f.state.pool().free_pages(); };
  f.state.reserve(f.ctx, slot, 0, 4);
  CHECK(held() == 1);
  f.state.reserve(f.ctx, slot, 4, 5);
  CHECK(held() == 2);
  f.state.reserve(f.ctx, slot, 2, 16);
  CHECK(held() == 4);
  f.state[slot].cached = 5;
  f.state.trim(slot);
  CHECK(held() == 2);
  f.state[slot].cached = 4;
  f.state.trim(slot);
  CHECK(held() == 1);
  f.state[slot].cached = 3, f.state[slot].drafted = 3;
  f.state.trim(slot);
  CHECK(held() == 1);
}

TEST_CASE_TEMPLATE("a prefix is shared, and who writes gets a copy", L, paged_layout, contiguous_layout) {
  for (const bool drafts : {false, true}) {
    CAPTURE(drafts);
    fixture<L> f{{.sequences = 3, .longest = 16, .drafts = drafts}};
    CHECK(f.blocks() == (drafts ? 4 : 3));
    const index_t donor = f.state.open(counted(11));
    f.write(donor, 11, 1e6);
    const index_t before = f.state.pool().free_pages();

    std::vector<std::int32_t> fork_tokens = counted(9);
    fork_tokens.push_back(23), fork_tokens.push_back(22);
    const index_t fork = f.state.open(fork_tokens);
    const index_t shared = drafts ? 8 : 9;  // row i of the MTP module knows token i + 1
    CHECK(f.state[fork].cached == shared);
    CHECK(f.state[fork].drafted == (drafts ? shared : 0));
    CHECK(f.state.pool().free_pages() == before);
    CHECK(f.reads(fork, 0, shared, 1e6));

    f.write(fork, 12, 2e6);  // the fork's first row lies in a page of the donor
    CHECK(f.reads(fork, 0, shared, 1e6));
    CHECK(f.reads(fork, shared, 12, 2e6));
    CHECK(f.reads(donor, 0, 11, 1e6));

    const index_t third = f.state.open(counted(16));  // begins like the donor, whose rows end in a page
    CHECK(f.state[third].cached == (drafts ? 10 : 11));
    f.write(donor, 14, 3e6);  // and now it is the donor that writes
    CHECK(f.reads(donor, 0, 11, 1e6));
    CHECK(f.reads(donor, 11, 14, 3e6));
    f.write(third, 16, 4e6);
    CHECK(f.reads(third, 0, drafts ? 10 : 11, 1e6));
    CHECK(f.reads(third, drafts ? 10 : 11, 16, 4e6));
    CHECK(f.reads(donor, 11, 14, 3e6));

    f.state.close(donor);  // what the others share of it stays
    CHECK(f.reads(fork, 0, shared, 1e6));
    CHECK(f.reads(third, 0, 10, 1e6));
    f.state.close(third), f.state.close(fork);
    CHECK(f.state.pool().free_pages() == f.state.pool().pages());
  }
}

TEST_CASE("what is not the same, or not there yet, is not shared; the last token is always left") {
  fixture<paged_layout> f;
  const index_t donor = f.state.open(counted(8));
  CHECK(f.state[f.state.open(counted(8))].cached == 0);  // nothing is computed yet
  f.state.close(1);
  f.write(donor, 5, 0);
  CHECK(f.state[f.state.open(counted(8))].cached == 5);
  f.state.close(1);
  f.write(donor, 8, 0);
  CHECK(f.state[f.state.open(counted(8))].cached == 7);
  f.state.close(1);
  CHECK(f.state[f.state.open(counted(3))].cached == 2);
  f.state.close(1);
  CHECK(f.state[f.state.open(counted(8, 1))].cached == 0);
  f.state.close(1);
  const index_t longer = f.state.open(counted(12));
  f.write(longer, 12, 0);
  CHECK(f.state[f.state.open(counted(12))].cached == 11);  // of two, the one with more in common
}

TEST_CASE("cache bytes of a token") {
  const auto bytes = [](const model_config& model, bool drafts) {
    host_memory memory;
    const decoding_state<bf16_mixed> state{memory, {.model = model, .longest = 64, .drafts = drafts}};
    CHECK(state.cache_bytes() == static_cast<std::size_t>(64 * state.token_bytes()));
    return state.token_bytes();
  };
  CHECK(bytes(model_config::deepseek_v3(), false) == 70272);
  CHECK(bytes(model_config::deepseek_v3(), true) == 71424);
  CHECK(bytes(model_config::deepseek_v2_lite(), false) == 31104);
  CHECK(bytes(model_config::moonlight_16b(), false) == 31104);
  CHECK(bytes(model_config::tiny(), false) == 640);
  CHECK(bytes(model_config::mini(), false) == 2560);
}

TEST_CASE("refusals") {
  fixture<paged_layout> f{{.sequences = 2, .longest = 16, .tokens = 20}};
  using support::raised;
  const auto open = [&](std::vector<std::int32_t> prompt, sampling_options sampling = {}) {
    return raised([&] { f.state.open(std::move(prompt), sampling); });
  };
  CHECK(open({}) == "prompt: it has no token, expected at least one");
  CHECK(open({3, 24}) == "prompt: token 1 is 24, the model's vocabulary ends at 23");
  CHECK(open({-1}) == "prompt: token 0 is -1, the model's vocabulary ends at 23");
  CHECK(open(counted(17)) == "prompt: 17 tokens, a sequence may have 16");
  CHECK(open({1}, {.temperature = -1}) ==
        "sampling_options: temperature is -1.000000, expected a finite number of at least 0");
  CHECK(f.state.open_sequences() == 0);

  const index_t slot = f.state.open(counted(16)), second = f.state.open(counted(16, 7));
  CHECK(open({1}) == "decoding state: all 2 sequences are taken");
  f.write(slot, 16, 0);
  CHECK(raised([&] { f.write(second, 5, 0); }) ==
        "latent cache: 2 more pages needed, 1 of 5 are free; give it more tokens or fewer sequences");
  CHECK(f.state.pool().free_pages() == 1);  // all or nothing
  f.state.close(second);
  CHECK(raised([&] { f.state.close(second); }) == "decoding state: sequence 1 is not open");
  CHECK(raised([&] { f.state.reserve(f.ctx, second, 0, 1); }) == "decoding state: sequence 1 is not open");

  const auto make = [](decoding_config c, index_t depth = 1) {
    return raised([&] { fixture<paged_layout>{std::move(c), depth}; });
  };
  CHECK(make({.sequences = 0, .longest = 4}) ==
        "decoding state: 0 sequences of 4 tokens in a cache of 0, expected positive numbers");
  CHECK(make({.longest = 65}) == "decoding state: sequences of 65 tokens, the model has 64 positions");
  CHECK(make({.longest = 8, .drafts = true}, 0) ==
        "decoding state: drafts need an MTP module, the model has none (num_nextn_predict_layers is 0)");
}
