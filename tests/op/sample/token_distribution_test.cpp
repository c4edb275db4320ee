// SPDX-License-Identifier: MIT
#include <dsv3/cpu/sample/token_distribution.hpp>

#include <oracle/token_distribution.hpp>
#include <support/chi_square.hpp>
#include <support/guarded.hpp>
#include <support/random_bits.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

constexpr std::uint64_t largest_weight = std::uint64_t{1} << op::weight_bits;
constexpr double infinity = std::numeric_limits<double>::infinity();
using ids = std::vector<std::int32_t>;

template <class P>
struct fixture {
  index_t rows, vocab;
  guarded<accumulator<P>> logits;
  guarded<std::uint64_t> weights;
  guarded<std::uint64_t, 1> totals, bits;
  guarded<std::int32_t, 1> tokens;
  std::vector<sampling_options> options;
  ids seen, seen_offsets;

  fixture(index_t row_count, index_t vocabulary, const sampling_options& how = {.temperature = 1},
          index_t gap = 3)
      : rows(row_count),
        vocab(vocabulary),
        logits(gap, rows, vocab),
        weights(gap + 1, rows, vocab),
        totals(0, rows),
        bits(0, rows),
        tokens(0, rows),
        options(std::size_t(rows), how) {
    logits.normal(7, 3);
  }
  explicit fixture(const std::vector<double>& row, const sampling_options& how = {.temperature = 1})
      : fixture(1, index_t(row.size()), how) {
    logits.assign(row);
  }

  typename op::token_distribution<P>::forward_args forward_args() {
    return {.logits = logits,
            .options = view{static_cast<const sampling_options*>(options.data()), rows},
            .seen = view{static_cast<const std::int32_t*>(seen.data()), seen.size()},
            .seen_offsets = view{static_cast<const std::int32_t*>(seen_offsets.data()), seen_offsets.size()},
            .weights = weights,
            .totals = totals};
  }
  typename op::token_distribution<P>::draw_args draw_args() {
    return {.weights = weights, .totals = totals, .bits = bits, .tokens = tokens};
  }
  void forward(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::token_distribution<P>::forward(ctx, forward_args()); });
    CHECK((logits.intact() && weights.intact() && totals.intact()));
  }
  void draw(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::token_distribution<P>::draw(ctx, draw_args()); });
    CHECK((weights.intact() && totals.intact() && tokens.intact()));
  }

  std::vector<double> row_logits(index_t r) {
    std::vector<double> row;
    for (index_t v = 0; v < vocab; ++v) row.push_back(static_cast<double>(logits.get()(r, v)));
    return row;
  }
  std::vector<std::uint64_t> row(index_t r = 0) {
    const std::uint64_t* w = weights.get()[r].data();
    return {w, w + vocab};
  }
  std::uint64_t total(index_t r = 0) { return totals.get()(r); }
  std::vector<double> probabilities(index_t r = 0) {
    std::vector<double> p;
    for (const std::uint64_t w : row(r)) p.push_back(double(w) / double(total(r)));
    return p;
  }
};

/// Which ids have weight.
template <class P>
ids kept(fixture<P> f) {
  f.forward();
  ids result;
  for (index_t v = 0; v < f.vocab; ++v)
    if (f.weights.get()(0, v) > 0) result.push_back(static_cast<std::int32_t>(v));
  return result;
}

const sampling_options ways[] = {{},
                                 {.temperature = 1},
                                 {.temperature = 0.7, .top_k = 3},
                                 {.temperature = 1.3, .top_p = 0.8},
                                 {.temperature = 2.5, .top_k = 6, .top_p = 0.55},
                                 {.temperature = 0.9, .top_p = 1e-9},
                                 {.temperature = 1, .top_k = 100000},
                                 {.repetition_penalty = 1.7},
                                 {.temperature = 1, .top_k = 5, .top_p = 0.9, .repetition_penalty = 1.4},
                                 {.temperature = 1, .repetition_penalty = 0.6}};

}  // namespace

TEST_CASE_TEMPLATE("distributions agree with the oracle", P, fp64_reference, fp32, bf16_mixed) {
  for (const index_t vocab : {1, 2, 5, 16, 33, 257})
    for (const sampling_options& how : ways) {
      CAPTURE(vocab);
      CAPTURE(how.temperature);
      CAPTURE(how.top_k);
      CAPTURE(how.top_p);
      CAPTURE(how.repetition_penalty);
      fixture<P> f(3, vocab, how);
      if (vocab > 4) f.logits.get()(1, 2) = accumulator<P>(-infinity), f.logits.get()(1, 4) = NAN;
      const auto some = [&](index_t i) { return static_cast<std::int32_t>(i % vocab); };
      f.seen = {some(0), some(3), some(3), some(11), some(2)};  // the middle row has seen nothing
      f.seen_offsets = {0, 4, 4, 5};
      f.forward();
      const std::vector<int> seen[] = {{some(0), some(3), some(11)}, {}, {some(2)}};
      for (index_t r = 0; r < f.rows; ++r) {
        const auto w = f.row(r);
        CHECK(std::accumulate(w.begin(), w.end(), std::uint64_t{0}) == f.total(r));
        const auto expected = oracle::token_distribution(
            f.row_logits(r), {how.temperature, std::size_t(how.top_k), how.top_p, how.repetition_penalty},
            seen[r]);
        const auto found = f.probabilities(r);
        for (std::size_t v = 0; v < found.size(); ++v) {
          CHECK(std::fabs(found[v] - expected[v]) <=
                double(vocab + 1) / double(largest_weight));  // the floors
          CHECK((found[v] > 0) == (expected[v] > 1e-12));
        }
      }
    }
}

TEST_CASE_TEMPLATE("greedy is weight one at the first of the largest logits", P, fp64_reference, fp32) {
  const auto greedy = [](const std::vector<double>& logits) { return kept(fixture<P>(logits, {})); };
  CHECK(greedy({5}) == ids{0});
  CHECK(greedy({-1, 3, 3, 2}) == ids{1});
  CHECK(greedy({-infinity, -1e30, -infinity}) == ids{1});
  CHECK(greedy({NAN, -4, NAN, -3}) == ids{3});
  CHECK(greedy({0.0, -0.0}) == ids{0});
  CHECK(greedy({-0.0, 0.0}) == ids{0});
  fixture<P> f(std::vector<double>{1, 2, 0}, {.top_k = 2, .top_p = 0.3});
  f.forward();
  CHECK(f.row() == std::vector<std::uint64_t>{0, 1, 0});
  CHECK(f.total() == 1);
  // The penalty comes first: 2 / 4 < 1, and -1 · 4 < -2.
  f.options[0].repetition_penalty = 4;
  f.seen = {1, 1, 1}, f.seen_offsets = {0, 3};
  CHECK(kept(f) == ids{0});
  f.logits.assign({-2, -1, -5});
  CHECK(kept(f) == ids{0});
  f.seen = {1, 0, 2};
  CHECK(kept(f) == ids{1});
  f.seen = {}, f.seen_offsets = {0, 0};  // nothing seen, said with offsets
  CHECK(kept(f) == ids{1});
}

TEST_CASE("of equal tokens the lower ids stay") {
  using P = fp32;
  const std::vector<double> even(7, 0.25), steps = {1, 2, 2, 3, 2, 1, 3};
  CHECK(kept(fixture<P>(even, {.temperature = 1, .top_k = 3})) == ids{0, 1, 2});
  CHECK(kept(fixture<P>(even, {.temperature = 1, .top_p = 0.5})) == ids{0, 1, 2, 3});
  CHECK(kept(fixture<P>(even, {.temperature = 1, .top_p = 1e-30})) == ids{0});
  CHECK(kept(fixture<P>(even, {.temperature = 1, .top_k = 4, .top_p = 0.75})) == ids{0, 1, 2});
  CHECK(kept(fixture<P>(steps, {.temperature = 1, .top_k = 1})) == ids{3});
  CHECK(kept(fixture<P>(steps, {.temperature = 1, .top_k = 2})) == ids{3, 6});
  CHECK(kept(fixture<P>(steps, {.temperature = 1, .top_k = 4})) == ids{1, 2, 3, 6});
  CHECK(kept(fixture<P>(steps, {.temperature = 1, .top_k = 7})) == ids{0, 1, 2, 3, 4, 5, 6});
  CHECK(kept(fixture<P>(steps, {.temperature = 1, .top_k = 8})) == ids{0, 1, 2, 3, 4, 5, 6});
  // Tokens without weight are never kept, however many are asked for.
  CHECK(kept(fixture<P>(std::vector<double>{0, -100, 1, -infinity}, {.temperature = 1, .top_k = 3})) ==
        ids{0, 2});
}

TEST_CASE("top_p keeps the fewest tokens whose share is at least so much") {
  using P = fp64_reference;
  const std::vector<double> logits = {std::log(0.25), std::log(0.5), std::log(0.125), std::log(0.125)};
  const auto at = [&](double top_p) { return kept(fixture<P>(logits, {.temperature = 1, .top_p = top_p})); };
  CHECK(at(0.25) == ids{1});
  CHECK(at(0.49) == ids{1});
  CHECK(at(0.51) == ids{0, 1});
  CHECK(at(0.74) == ids{0, 1});
  CHECK(at(0.76) == ids{0, 1, 2});
  CHECK(at(0.99) == ids{0, 1, 2, 3});
  CHECK(at(1) == ids{0, 1, 2, 3});
  const std::vector<double> even(4, 1.0);  // a boundary that is met exactly
  CHECK(kept(fixture<P>(even, {.temperature = 1, .top_p = 0.5})) == ids{0, 1});
  CHECK(kept(fixture<P>(even, {.temperature = 1, .top_p = std::nextafter(0.5, 1)})) == ids{0, 1, 2});
}

TEST_CASE_TEMPLATE("temperatures from next to nothing to next to infinity", P, fp64_reference, fp32) {
  for (const double temperature : {5e-324, 1e-300, 1e-30}) {
    fixture<P> f(std::vector<double>{1, 3, 3, 2.99}, {.temperature = temperature});
    f.forward();
    CHECK(f.row() == std::vector<std::uint64_t>{0, largest_weight, largest_weight, 0});
  }
  fixture<P> f(std::vector<double>{-30, 3, -infinity, 0}, {.temperature = 1e300});
  f.forward();
  CHECK(f.row() == std::vector<std::uint64_t>{largest_weight, largest_weight, 0, largest_weight});
  CHECK(f.total() == 3 * largest_weight);
}

TEST_CASE("filters of large vocabularies decide as sorting does") {
  using P = fp32;
  const index_t vocab = 163840;
  const auto equal = [](index_t) { return 2.0; };
  const auto few = [](index_t i) { return double(i * 7919 % 5) - 3; };
  const auto close = [](index_t i) { return 1 + 1e-6 * double(i * 7919 % 1000); };
  const auto spread = [](index_t i) { return -0.001 * double(i * 7919 % 163840); };
  const sampling_options filters[] = {{.temperature = 1, .top_k = 1},
                                      {.temperature = 1, .top_k = 40},
                                      {.temperature = 1, .top_k = 100001},
                                      {.temperature = 1, .top_p = 0.05},
                                      {.temperature = 1, .top_p = 0.9},
                                      {.temperature = 1, .top_p = 0.999999},
                                      {.temperature = 1, .top_k = 5000, .top_p = 0.5}};
  const auto try_all = [&](auto&& make) {
    fixture<P> whole(1, vocab);
    whole.logits.fill(make);
    whole.forward();
    fixture<P> f = whole;
    for (const sampling_options& how : filters) {
      CAPTURE(how.top_k);
      CAPTURE(how.top_p);
      f.options[0] = how;
      f.forward();
      CHECK(f.row() == oracle::filter_weights(whole.row(), std::size_t(how.top_k), how.top_p));
    }
  };
  try_all(equal), try_all(few), try_all(close), try_all(spread);
  const random_stream random(20260101, 3);
  try_all([&](index_t i) { return 4 * random.normal(std::uint64_t(i)); });
}

TEST_CASE("draws come as often as their weights say") {
  using P = fp32;
  const index_t draws = 100000, vocab = 16;
  for (const sampling_options& how : {sampling_options{.temperature = 1},
                                      {.temperature = 0.8, .top_k = 7},
                                      {.temperature = 1.5, .top_p = 0.85}}) {
    fixture<P> f(draws, vocab, how, 0);
    const auto row = fixture<P>(1, vocab).row_logits(0);
    f.logits.fill([&](index_t i) { return row[std::size_t(i % vocab)] / 2; });
    f.bits.fill([](index_t i) { return support::random_bits(11, std::uint64_t(i)); });
    f.forward(), f.draw();
    std::vector<double> counts(vocab, 0.0);
    for (const double token : f.tokens.values()) ++counts[std::size_t(token)];
    CHECK(support::chi_square_p(counts, f.probabilities()) > support::plausible);
    std::vector<double> shifted = f.probabilities();  // the statistic would notice a token moved by one
    std::rotate(shifted.begin(), shifted.begin() + 1, shifted.end());
    CHECK(support::chi_square_p(counts, shifted) < support::impossible);
  }
}

TEST_CASE("a draw is where the running sum passes the scaled bits") {
  using P = fp32;
  for (const index_t vocab : {1, 2, 1023, 1024, 1025, 4097}) {
    fixture<P> f(1, vocab, {.temperature = 1, .top_p = 0.97});
    f.forward();
    const auto w = f.row();
    const auto drawn = [&](std::uint64_t bits) {
      f.bits.get()(0) = bits;
      f.draw();
      return f.tokens.get()(0);
    };
    std::int32_t first = 0, last = std::int32_t(vocab) - 1;
    while (w[std::size_t(first)] == 0) ++first;
    while (w[std::size_t(last)] == 0) --last;
    CHECK(drawn(0) == first);
    CHECK(drawn(~std::uint64_t{0}) == last);
    for (std::uint64_t i = 0; i < 40; ++i) {
      const std::uint64_t bits = support::random_bits(12, i);
      const auto bound = static_cast<std::uint64_t>((uint128{bits} * f.total()) >> 64);
      std::uint64_t sum = 0;
      std::int32_t v = -1;
      while (sum <= bound) sum += w[std::size_t(++v)];
      CHECK(drawn(bits) == v);
    }
  }
}

TEST_CASE("the same logits give the same bits on any number of threads") {
  using P = fp32;
  fixture<P> one(23, 3001);
  for (index_t r = 0; r < one.rows; ++r) one.options[std::size_t(r)] = ways[std::size_t(r) % std::size(ways)];
  one.bits.fill([](index_t i) { return support::random_bits(13, std::uint64_t(i)); });
  fixture<P> others = one;
  one.forward(1), one.draw(1);
  for (const int threads : {1, 2, 3, 7}) {
    fixture<P> f = others;
    f.forward(threads), f.draw(threads);
    CHECK(f.weights.same_bits(one.weights));
    CHECK(f.totals.same_bits(one.totals));
    CHECK(f.tokens.same_bits(one.tokens));
  }
}

#if defined(DSV3_TEST_BACKEND)
TEST_CASE_TEMPLATE("both wings make the same distributions and draw the same tokens", P, fp64_reference,
                   fp32) {
  for (const index_t vocab : {1, 33, 4099, 40000}) {
    fixture<P> here(37, vocab);
    for (index_t r = 0; r < here.rows; ++r) {
      here.options[std::size_t(r)] = ways[std::size_t(r) % std::size(ways)];
      for (index_t v = r % 7; r % 3 == 0 && v < vocab; v += 5)  // many equal logits
        here.logits.get()(r, v) = accumulator<P>(double(v % 11) / 4);
    }
    for (index_t r = 0; r <= here.rows; ++r) here.seen_offsets.push_back(std::int32_t(2 * r));
    for (index_t i = 0; i < 2 * here.rows; ++i) here.seen.push_back(std::int32_t(i * 7919 % vocab));
    here.bits.fill([](index_t i) { return support::random_bits(14, std::uint64_t(i)); });
    fixture<P> there = here;
    there.forward(), there.draw();
    host_memory memory;
    cpu_context ctx{.threads = 2};
    const auto forward = [&](auto& on) { op::token_distribution<P>::forward(on, here.forward_args()); };
    ctx.scratch = scratch_arena{memory, measure(ctx, forward)};
    forward(ctx), op::token_distribution<P>::draw(ctx, here.draw_args());
    CHECK(there.weights.same_bits(here.weights));
    CHECK(there.totals.same_bits(here.totals));
    CHECK(there.tokens.same_bits(here.tokens));
  }
}
#endif

TEST_CASE("no rows, no work") {
  fixture<fp32> f(0, 16);
  f.forward(), f.draw();
  CHECK(f.weights.values().empty());
}

TEST_CASE("rows that have no distribution are named") {
  using P = fp32;
  const auto sentence = [](double a, double b) {
    fixture<P> f(3, 2);
    f.logits.get()(1, 0) = float(a), f.logits.get()(1, 1) = float(b);
    f.logits.get()(2, 0) = f.logits.get()(2, 1) = NAN;
    return support::raised([&] { f.forward(); });
  };
  const char* expected =
      "token_distribution.forward: the largest logit of row 1 is infinite or there is none, expected a "
      "finite one";
  CHECK(sentence(-infinity, NAN) == expected);
  CHECK(sentence(-infinity, -infinity) == expected);
  CHECK(sentence(infinity, 0) == expected);
  fixture<P> nothing(1, 0);
  CHECK(support::raised([&] { nothing.forward(); }).find("row 0") != std::string::npos);
}

TEST_CASE("bad arguments are refused with a sentence") {
  using P = fp32;
  const auto forward = [](auto&& spoil) {
    fixture<P> f(2, 4);
    f.seen = {1, 2}, f.seen_offsets = {0, 1, 2};
    spoil(f);
    return support::raised([&] { f.forward(); });
  };
  CHECK(forward([](auto&) {}) == "");
  CHECK(forward([](auto& f) { f.options[1].top_p = 0; }) ==
        "token_distribution.forward: row 1, sampling_options: top_p is 0.000000, expected above 0 and at "
        "most 1");
  CHECK(forward([](auto& f) { f.seen[1] = 4; }) ==
        "token_distribution.forward: seen token 1 is 4, expected an id below 4");
  CHECK(forward([](auto& f) { f.seen[0] = -1; }) ==
        "token_distribution.forward: seen token 0 is -1, expected an id below 4");
  CHECK(forward([](auto& f) { f.seen_offsets[1] = 3; }) ==
        "token_distribution.forward: seen_offsets[1] is 3, expected 0 to 2");
  CHECK(forward([](auto& f) { f.seen_offsets[2] = 0; }) ==
        "token_distribution.forward: seen_offsets[2] is 0, expected 1 to 2");
  CHECK(forward([](auto& f) { f.seen_offsets.pop_back(); }) ==
        "token_distribution.forward: seen_offsets has 2 elements, rows + 1 has 3");
  CHECK(forward([](auto& f) { f.seen_offsets.clear(); }) ==
        "token_distribution.forward: seen_offsets has 0 elements, rows + 1 has 3");

  fixture<P> f(2, 4);
  const auto checked = [&](auto&& spoil) {
    auto args = f.forward_args();
    spoil(args);
    return args.check().message();
  };
  CHECK(checked([](auto& a) { a.options = a.options.slice(0, 0, 1); }) ==
        "token_distribution.forward: options has 1 rows, logits has 2");
  CHECK(checked([](auto& a) { a.weights = a.weights.columns(0, 3); }) ==
        "token_distribution.forward: weights has 3 columns, logits has 4");
  CHECK(checked([](auto& a) { a.totals = a.totals.slice(0, 0, 1); }) ==
        "token_distribution.forward: totals has 1 rows, logits has 2");
  CHECK(checked([](auto& a) {
          a.logits = view{a.logits.data(), 2, 1048577};
          a.weights = view{a.weights.data(), 2, 1048577};
        }) == "token_distribution.forward: a vocabulary has at most 1048576 tokens, found vocab 1048577");
  auto draw = f.draw_args();
  draw.bits = draw.bits.slice(0, 0, 1);
  CHECK(draw.check().message() == "token_distribution.draw: bits has 1 rows, weights has 2");

  f.forward();
  f.bits.fill([](index_t) { return ~std::uint64_t{0}; });
  const std::uint64_t right = f.totals.get()(1);
  f.totals.get()(1) = right * 2;
  CHECK(support::raised([&] { f.draw(); }) == "token_distribution.draw: the weights of row 1 do not sum to " +
                                                  std::to_string(right * 2) +
                                                  ", expected its total, above 0");
  f.totals.get()(1) = 0;
  CHECK(support::raised([&] { f.draw(); }) ==
        "token_distribution.draw: the weights of row 1 do not sum to 0, expected its total, above 0");
}

TEST_CASE("sampling options say what is wrong with them") {
  const auto found = [](const sampling_options& options) { return options.check().message(); };
  CHECK(found({}) == "");
  CHECK(found({.temperature = 1e300, .top_k = 1, .top_p = 1e-300, .repetition_penalty = 0.1}) == "");
  CHECK(found({.temperature = -1}) ==
        "sampling_options: temperature is -1.000000, expected a finite number of at least 0");
  CHECK(found({.temperature = NAN}).find("temperature is nan") != std::string::npos);
  CHECK(found({.temperature = infinity}).find("temperature is inf") != std::string::npos);
  CHECK(found({.top_k = -3}) == "sampling_options: top_k is -3, expected at least 0");
  CHECK(found({.top_p = 1.5}) == "sampling_options: top_p is 1.500000, expected above 0 and at most 1");
  CHECK(found({.top_p = NAN}).find("top_p is nan") != std::string::npos);
  CHECK(found({.repetition_penalty = 0}) ==
        "sampling_options: repetition_penalty is 0.000000, expected a finite number above 0");
}
