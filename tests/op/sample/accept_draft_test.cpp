// SPDX-License-Identifier: MIT
#include <dsv3/cpu/sample/accept_draft.hpp>
#include <dsv3/cpu/sample/token_distribution.hpp>

#include <oracle/accept_draft.hpp>
#include <support/chi_square.hpp>
#include <support/guarded.hpp>
#include <support/random_bits.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

constexpr std::uint64_t most_bits = std::numeric_limits<std::uint64_t>::max();
using whole = std::vector<std::uint64_t>;

/// Drafts of some sequences and everything that judges them.
struct batch {
  std::vector<index_t> lengths;
  index_t sequences, drafts, rows, vocab;
  guarded<std::uint64_t> target, draft;
  guarded<std::uint64_t, 1> target_totals, draft_totals, bits;
  guarded<std::int32_t, 1> drafted, offsets, accepted, next;

  batch(const std::vector<index_t>& drafts_of, index_t vocabulary, index_t gap = 3)
      : lengths(drafts_of),
        sequences(index_t(lengths.size())),
        drafts(std::accumulate(lengths.begin(), lengths.end(), index_t{0})),
        rows(drafts + sequences),
        vocab(vocabulary),
        target(gap, rows, vocab),
        draft(gap + 1, drafts, vocab),
        target_totals(0, rows),
        draft_totals(0, drafts),
        bits(0, 2 * rows),
        drafted(0, drafts),
        offsets(0, sequences + 1),
        accepted(0, sequences),
        next(0, sequences) {
    index_t first = 0;
    for (index_t b = 0; b <= sequences; ++b) {
      offsets.get()(b) = std::int32_t(first);
      if (b < sequences) first += lengths[std::size_t(b)];
    }
    random_numbers(1);
  }

  void random_numbers(std::uint64_t stream) {
    bits.fill([&](index_t i) { return support::random_bits(stream, std::uint64_t(i)); });
  }
  void put_target(index_t row, const whole& w) { put(target, target_totals, row, w); }
  void put_draft(index_t row, const whole& w) { put(draft, draft_totals, row, w); }
  static void put(guarded<std::uint64_t>& to, guarded<std::uint64_t, 1>& totals, index_t row,
                  const whole& w) {
    for (index_t v = 0; v < index_t(w.size()); ++v) to.get()(row, v) = w[std::size_t(v)];
    totals.get()(row) = std::accumulate(w.begin(), w.end(), std::uint64_t{0});
  }

  /// Every draft is drawn from the distribution it is said to come from.
  void draw_drafts(std::uint64_t stream) {
    guarded<std::uint64_t, 1> uniform(0, drafts);
    uniform.fill([&](index_t i) { return support::random_bits(stream, std::uint64_t(i)); });
    support::run(2, [&](auto& ctx) {
      op::token_distribution<fp32>::draw(
          ctx, {.weights = draft, .totals = draft_totals, .bits = uniform, .tokens = drafted});
    });
  }

  op::accept_draft::forward_args args() {
    return {.target = target,
            .target_totals = target_totals,
            .draft = draft,
            .draft_totals = draft_totals,
            .drafted = drafted,
            .offsets = offsets,
            .bits = bits,
            .accepted = accepted,
            .next = next};
  }
  void verify(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::accept_draft::forward(ctx, args()); });
    CHECK((target.intact() && draft.intact() && accepted.intact() && next.intact()));
  }

  static std::vector<double> shares(guarded<std::uint64_t>& of, guarded<std::uint64_t, 1>& totals,
                                    index_t row, index_t vocab) {
    std::vector<double> result;
    for (index_t v = 0; v < vocab; ++v)
      result.push_back(double(of.get()(row, v)) / double(totals.get()(row)));
    return result;
  }
  oracle::verified expected(index_t b, oracle::rule how = oracle::rule::right) {
    std::vector<std::vector<double>> p, q;
    std::vector<int> y;
    std::vector<double> u, d;
    const index_t first = offsets.get()(b), end = offsets.get()(b + 1);
    for (index_t i = first; i <= end; ++i) {
      p.push_back(shares(target, target_totals, i + b, vocab));
      u.push_back(double(bits.get()(2 * (i + b))) * 0x1p-64);
      d.push_back(double(bits.get()(2 * (i + b) + 1)) * 0x1p-64);
      if (i == end) break;
      q.push_back(shares(draft, draft_totals, i, vocab));
      y.push_back(drafted.get()(i));
    }
    return oracle::accept_draft(p, q, y, u, d, how);
  }
};

/// Weights of all magnitudes, some of them zero.
whole random_weights(index_t vocab, std::uint64_t stream) {
  whole w;
  for (index_t v = 0; v < vocab; ++v) {
    const std::uint64_t bits = support::random_bits(stream, std::uint64_t(v));
    w.push_back(bits % 4 == 0 ? 0 : (bits >> 21) >> (bits % 23));
  }
  w[std::size_t(stream) % w.size()] = std::uint64_t{1} << 43;
  return w;
}

using verify_rule = std::function<void(batch&)>;
const verify_rule library = [](batch& b) { b.verify(); };

verify_rule in_doubles(oracle::rule how) {
  return [how](batch& all) {
    for (index_t b = 0; b < all.sequences; ++b) {
      const oracle::verified result = all.expected(b, how);
      all.accepted.get()(b) = std::int32_t(result.accepted);
      all.next.get()(b) = result.next;
    }
  };
}

constexpr index_t draws = 100000, draws_of_wrong_rules = 20000;

/// The p-value of the first committed token, one draft in each of so many sequences.
double first_token_p(const whole& p, const whole& q, const verify_rule& verify, index_t sequences = draws) {
  const index_t vocab = index_t(p.size());
  batch all(std::vector<index_t>(std::size_t(sequences), 1), vocab, 0);
  const whole bonus = random_weights(vocab, 99);
  for (index_t b = 0; b < sequences; ++b)
    all.put_target(2 * b, p), all.put_target(2 * b + 1, bonus), all.put_draft(b, q);
  all.draw_drafts(21), all.random_numbers(22);
  verify(all);
  std::vector<double> counts(p.size(), 0.0), bonus_counts(p.size(), 0.0);
  for (index_t b = 0; b < sequences; ++b) {
    const bool stays = all.accepted.get()(b) == 1;
    ++counts[std::size_t(stays ? all.drafted.get()(b) : all.next.get()(b))];
    if (stays) ++bonus_counts[std::size_t(all.next.get()(b))];
  }
  CHECK(support::chi_square_p(bonus_counts, batch::shares(all.target, all.target_totals, 1, vocab)) >
        support::plausible);
  return support::chi_square_p(counts, batch::shares(all.target, all.target_totals, 0, vocab));
}

/// A model of one token's memory: row t of a table is what follows token t.
using table = std::vector<whole>;
const table model = {{8, 4, 2, 1, 1}, {1, 9, 0, 3, 3}, {5, 5, 5, 1, 0}, {0, 0, 7, 2, 7}, {2, 3, 4, 5, 6}};
const table drafter = {{1, 1, 2, 4, 8}, {5, 1, 1, 1, 1}, {0, 1, 1, 1, 9}, {1, 2, 3, 0, 1}, {4, 4, 1, 1, 1}};

/// The p-value of the first two tokens after token 0 together, generated with `length` drafts a step.
double two_tokens_p(index_t length, const verify_rule& verify, index_t sequences = draws) {
  const auto states = std::size_t(model.size());
  std::vector<std::vector<std::int32_t>> tokens(std::size_t(sequences), {0});
  for (std::uint64_t step = 1;; ++step) {
    std::vector<std::size_t> open;
    for (std::size_t s = 0; s < tokens.size(); ++s)
      if (tokens[s].size() < 3) open.push_back(s);
    if (open.empty()) break;
    // The drafter speaks one token at a time, each from the row of the one before.
    std::vector<std::vector<std::int32_t>> drafts(open.size());
    batch all(std::vector<index_t>(open.size(), length), index_t(states), 0);
    for (std::size_t b = 0; b < open.size(); ++b) {
      std::int32_t last = tokens[open[b]].back();
      const index_t first = index_t(b) * length, row = index_t(b) * (length + 1);
      for (index_t i = 0; i < length; ++i) {
        const whole& q = drafter[std::size_t(last)];
        all.put_target(row + i, model[std::size_t(last)]), all.put_draft(first + i, q);
        const double uniform = double(support::random_bits(30 + step, std::uint64_t(first + i))) * 0x1p-64;
        last = oracle::draw({q.begin(), q.end()}, uniform);
        all.drafted.get()(first + i) = last;
      }
      all.put_target(row + length, model[std::size_t(last)]);
    }
    all.random_numbers(60 + step);
    verify(all);
    for (std::size_t b = 0; b < open.size(); ++b) {
      auto& text = tokens[open[b]];
      for (index_t i = 0; i < all.accepted.get()(index_t(b)); ++i)
        text.push_back(all.drafted.get()(index_t(b) * length + i));
      text.push_back(all.next.get()(index_t(b)));
    }
  }
  std::vector<double> counts(states * states, 0.0), expected(states * states, 0.0);
  for (const auto& text : tokens) ++counts[std::size_t(text[1]) * states + std::size_t(text[2])];
  const auto share = [](const whole& row, std::size_t v) {
    return double(row[v]) / double(std::accumulate(row.begin(), row.end(), std::uint64_t{0}));
  };
  for (std::size_t a = 0; a < states; ++a)
    for (std::size_t b = 0; b < states; ++b)
      expected[a * states + b] = share(model[0], a) * share(model[a], b);
  return support::chi_square_p(counts, expected);
}

}  // namespace

TEST_CASE("decisions agree with the oracle") {
  for (const index_t vocab : {1, 2, 5, 16, 33, 1025})
    for (const std::vector<index_t>& lengths :
         {std::vector<index_t>{}, {0}, {1}, {3, 0, 1, 2}, {0, 0, 4}, {7, 7, 7, 7, 1, 1}}) {
      CAPTURE(vocab);
      batch all(lengths, vocab);
      for (std::uint64_t round = 0; round < 20; ++round) {
        for (index_t row = 0; row < all.rows; ++row)
          all.put_target(row, random_weights(vocab, 1000 * round + std::uint64_t(row)));
        for (index_t i = 0; i < all.drafts; ++i)  // some drafters are right
          all.put_draft(i, random_weights(vocab, 1000 * round + std::uint64_t(i % 2 == 0 ? i : 500 + i)));
        all.draw_drafts(40 + round), all.random_numbers(80 + round);
        all.verify();
        for (index_t b = 0; b < all.sequences; ++b) {
          const oracle::verified found{std::size_t(all.accepted.get()(b)), all.next.get()(b)};
          CHECK(found == all.expected(b));
        }
      }
    }
}

TEST_CASE("what is committed is distributed as the target, whatever the draft") {
  const whole p = {1, 2, 3, 4, 50, 60, 7, 8, 900, 10, 11, 12, 130, 140, 15, 160};
  const whole reversed(p.rbegin(), p.rend()), even(16, 1),
      filtered = {0, 0, 5, 0, 9, 0, 0, 2, 0, 0, 0, 0, 7, 0, 0, 1};
  whole least(16, 0), likely(16, 0), apart(16, 0), near = p;
  least[0] = 1, likely[8] = 1;
  for (std::size_t v = 0; v < 16; ++v) apart[v] = filtered[v] == 0 ? 3 : 0;
  near[5] += 7, near[8] -= 50;
  const std::pair<whole, whole> pairs[] = {
      {p, p},        {p, reversed},     {p, even},           {p, least}, {p, likely},
      {p, apart},    {p, filtered},     {p, near},           {even, p},  {even, least},
      {filtered, p}, {filtered, apart}, {filtered, filtered}};
  for (std::size_t i = 0; i < std::size(pairs); ++i) {
    CAPTURE(i);
    CHECK(first_token_p(pairs[i].first, pairs[i].second, library) > support::plausible);
  }
  // The statistic sees what a wrong rule does.
  CHECK(first_token_p(p, reversed, in_doubles(oracle::rule::right)) > support::plausible);
  CHECK(first_token_p(p, reversed, in_doubles(oracle::rule::no_residual), draws_of_wrong_rules) <
        support::impossible);
  CHECK(first_token_p(p, reversed, in_doubles(oracle::rule::always_accept), draws_of_wrong_rules) <
        support::impossible);
  CHECK(first_token_p(p, even, in_doubles(oracle::rule::no_residual), draws_of_wrong_rules) <
        support::impossible);
}

TEST_CASE("two tokens together are distributed as the model speaks them") {
  for (const index_t length : {0, 1, 2, 3}) {
    CAPTURE(length);
    CHECK(two_tokens_p(length, library) > support::plausible);
  }
  for (const index_t length : {1, 2}) {
    CAPTURE(length);
    CHECK(two_tokens_p(length, in_doubles(oracle::rule::no_residual), draws_of_wrong_rules) <
          support::impossible);
    CHECK(two_tokens_p(length, in_doubles(oracle::rule::always_accept), draws_of_wrong_rules) <
          support::impossible);
  }
  CHECK(two_tokens_p(1, in_doubles(oracle::rule::first_bonus), draws_of_wrong_rules) < support::impossible);
}

TEST_CASE("greedy drafts stay exactly where the target says the same") {
  // All choices of three tokens for three drafts and four target rows, one sequence each.
  constexpr index_t sequences = 2187;
  batch all(std::vector<index_t>(sequences, 3), 3);
  const auto one = [](index_t v) {
    whole w(3, 0);
    w[std::size_t(v)] = 1;
    return w;
  };
  std::vector<std::vector<index_t>> choices;
  for (index_t b = 0; b < sequences; ++b) {
    std::vector<index_t> digits;
    for (index_t n = b, i = 0; i < 7; ++i, n /= 3) digits.push_back(n % 3);
    for (index_t i = 0; i < 4; ++i) all.put_target(4 * b + i, one(digits[std::size_t(i)]));
    for (index_t i = 0; i < 3; ++i) {
      all.put_draft(3 * b + i, one(digits[std::size_t(4 + i)]));
      all.drafted.get()(3 * b + i) = std::int32_t(digits[std::size_t(4 + i)]);
    }
    choices.push_back(digits);
  }
  const auto same_as_argmax = [&] {
    all.verify();
    for (index_t b = 0; b < sequences; ++b) {
      const auto& digits = choices[std::size_t(b)];
      std::size_t stays = 0;
      while (stays < 3 && digits[stays] == digits[4 + stays]) ++stays;
      REQUIRE(all.accepted.get()(b) == std::int32_t(stays));
      REQUIRE(all.next.get()(b) == digits[stays]);
    }
  };
  same_as_argmax();
  all.bits.fill([](index_t) { return 0; });
  same_as_argmax();
  all.bits.fill([](index_t) { return most_bits; });
  same_as_argmax();
}

TEST_CASE("the uniforms decide where the ratio says, to the last bit") {
  batch all({1}, 3);
  all.put_target(0, {1, 1, 1}), all.put_target(1, {0, 0, 9}), all.put_draft(0, {1, 0, 0});
  all.drafted.get()(0) = 0;
  const auto accepted = [&](std::uint64_t bits) {
    all.bits.get()(0) = bits;
    all.verify();
    CHECK(all.next.get()(0) == (all.accepted.get()(0) == 1 ? 2 : 1 + int(all.bits.get()(1) >> 63)));
    return all.accepted.get()(0) == 1;
  };
  CHECK(accepted(0));
  CHECK(accepted(0x5555555555555555));  // 2^64 / 3 = 0x5555555555555555.5...
  CHECK_FALSE(accepted(0x5555555555555556));
  CHECK_FALSE(accepted(most_bits));
  all.put_draft(0, {3, 4, 2});  // p = q for the drafted token, then p > q
  CHECK(accepted(most_bits));
  all.put_draft(0, {2, 4, 3});
  CHECK(accepted(most_bits));
}

TEST_CASE("the largest weights and totals do not overflow") {
  constexpr index_t vocab = index_t{1} << 20;
  constexpr std::uint64_t most = std::uint64_t{1} << 43;
  batch all({1}, vocab, 0);
  whole half(std::size_t(vocab), most);
  all.put_draft(0, half);  // total 2^63
  std::fill_n(half.begin() + vocab / 4, vocab / 2, std::uint64_t{0});
  all.put_target(0, half), all.put_target(1, half);  // total 2^62, nothing in the middle
  const auto verified = [&](std::int32_t y, std::uint64_t u, std::uint64_t d) {
    all.drafted.get()(0) = y;
    all.bits.assign({0, 0, 0, 0});
    all.bits.get()(0) = u, all.bits.get()(1) = all.bits.get()(3) = d;
    all.verify();
    return oracle::verified{std::size_t(all.accepted.get()(0)), all.next.get()(0)};
  };
  const auto quarter = std::int32_t(vocab / 4), last = std::int32_t(vocab - 1);
  CHECK(verified(quarter, 0, 0) == oracle::verified{0, 0});
  CHECK(verified(quarter, 0, most_bits) == oracle::verified{0, last});
  CHECK(verified(quarter, 0, most_bits / 2) == oracle::verified{0, quarter - 1});
  CHECK(verified(quarter, 0, most_bits / 2 + 1) == oracle::verified{0, 3 * quarter});
  CHECK(verified(7, most_bits, most_bits) == oracle::verified{1, last});
  std::fill(half.begin(), half.end(), most);
  all.put_target(0, half);
  half.assign(half.size(), 0), half[3] = 1;
  all.put_draft(0, half);
  CHECK(verified(3, (std::uint64_t{1} << 44) - 1, 0).accepted == 1);  // probability 2^-20
  CHECK(verified(3, std::uint64_t{1} << 44, 0) == oracle::verified{0, 0});
  CHECK(verified(3, most_bits, most_bits) == oracle::verified{0, last});
}

TEST_CASE("the same drafts meet the same end on any number of threads") {
  batch one({3, 0, 2, 5, 1, 1, 4}, 700);
  for (index_t row = 0; row < one.rows; ++row) one.put_target(row, random_weights(700, std::uint64_t(row)));
  for (index_t i = 0; i < one.drafts; ++i) one.put_draft(i, random_weights(700, 100 + std::uint64_t(i)));
  one.draw_drafts(5);
  const batch given = one;
  one.verify(1);
  for (const int threads : {1, 2, 3, 7}) {
    batch other = given;
    other.verify(threads);
    CHECK(other.accepted.same_bits(one.accepted));
    CHECK(other.next.same_bits(one.next));
  }
}

TEST_CASE("bad arguments are refused with a sentence") {
  const auto raised = [](auto&& spoil) {
    batch all({1, 2}, 4);
    for (index_t row = 0; row < all.rows; ++row) all.put_target(row, {1, 2, 3, 4});
    for (index_t i = 0; i < all.drafts; ++i) all.put_draft(i, {1, 2, 0, 4}), all.drafted.get()(i) = 3;
    spoil(all);
    return support::raised([&] { all.verify(); });
  };
  CHECK(raised([](batch&) {}) == "");
  CHECK(raised([](batch& all) { all.offsets.get()(0) = 1; }) ==
        "accept_draft.forward: offsets[0] is 1, expected 0 to 0");
  CHECK(raised([](batch& all) { all.offsets.get()(1) = 4; }) ==
        "accept_draft.forward: offsets[1] is 4, expected 0 to 3");
  CHECK(raised([](batch& all) { all.offsets.get()(2) = 0; }) ==
        "accept_draft.forward: offsets[2] is 0, expected 1 to 3");
  CHECK(raised([](batch& all) { all.offsets.get()(2) = 2; }) ==
        "accept_draft.forward: the last offset is 2, expected the 3 drafts");
  CHECK(raised([](batch& all) { all.drafted.get()(2) = 4; }) ==
        "accept_draft.forward: drafted token 2 is 4, expected an id below 4");
  CHECK(raised([](batch& all) { all.drafted.get()(1) = -1; }) ==
        "accept_draft.forward: drafted token 1 is -1, expected an id below 4");
  CHECK(
      raised([](batch& all) { all.drafted.get()(1) = 2; }) ==
      "accept_draft.forward: drafted token 1, 2, has no weight in its draft distribution, expected one that "
      "was drawn from it");
  CHECK(raised([](batch& all) { all.target_totals.get()(3) = 0; }) ==
        "accept_draft.forward: the total of target row 3 is 0, expected a positive one");
  CHECK(raised([](batch& all) {
          batch::put(all.target, all.target_totals, 4, {0, 0, 0, 0});
          all.target_totals.get()(4) = 1;
          all.target.get()(2, 3) = all.target.get()(3, 3) = 1000;
        }) ==
        "accept_draft.forward: the weights of sequence 1 in target row 4 do not sum to the row's total");

  batch all({1, 2}, 4);
  const auto checked = [&](auto&& spoil) {
    auto args = all.args();
    spoil(args);
    return args.check().message();
  };
  CHECK(checked([](auto&) {}) == "");
  CHECK(checked([](auto& a) { a.target = a.target.rows(0, 4); }) ==
        "accept_draft.forward: target has 4 rows, drafts + sequences has 5");
  CHECK(checked([](auto& a) { a.draft = a.draft.columns(0, 3); }) ==
        "accept_draft.forward: draft has 3 columns, target has 4");
  CHECK(checked([](auto& a) { a.bits = a.bits.slice(0, 0, 5); }) ==
        "accept_draft.forward: bits has 5 elements, 2 (drafts + sequences) has 10");
  CHECK(checked([](auto& a) { a.offsets = a.offsets.slice(0, 0, 2); }) ==
        "accept_draft.forward: offsets has 2 elements, sequences + 1 has 3");
  CHECK(checked([](auto& a) { a.next = a.next.slice(0, 0, 1); }) ==
        "accept_draft.forward: next has 1 sequences, accepted has 2");
  batch none({0, 0}, 4);
  auto args = none.args();
  args.draft = {};  // without drafts there is nothing to have columns
  CHECK(args.check().good());
}
